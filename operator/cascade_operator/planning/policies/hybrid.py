"""Ours: any row of any chain, mixed: some prompts go direct, some light images escalate."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import pruned
from .base import Policy

POLICY = Policy(PolicyName.HYBRID, pruned, offers_more=True)

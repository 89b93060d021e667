"""Baseline: HADIS with work given to the replica with the least wait instead of any."""

from __future__ import annotations

import dataclasses

from cascade_api.cascade import PolicyName

from . import hadis

POLICY = dataclasses.replace(hadis.POLICY, name=PolicyName.HADIS_JSQ, dispatch="least-wait")

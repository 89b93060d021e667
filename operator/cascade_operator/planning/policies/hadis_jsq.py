"""Baseline: HADIS, but work goes to the replica with the least wait instead of a random one."""

from __future__ import annotations

from typing import ClassVar

from cascade_api.cascade import PolicyName

from .base import Dispatch
from .hadis import Hadis


class HadisJsq(Hadis):
    """HADIS that joins the shortest queue."""

    name = PolicyName.HADIS_JSQ
    dispatch: ClassVar[Dispatch] = "least-wait"

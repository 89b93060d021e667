"""The status of a cascade of which no spec was ever valid: it says which field is wrong. Pure."""

from __future__ import annotations

from typing import Literal

from cascade_api.reasons import ConditionType
from cascade_api.status import CascadeStatus, Condition, merge_conditions

from .planning.plans import timestamp
from .sources import Refused


def status_of_refused(refused: Refused, *, before: CascadeStatus | None, now: float) -> CascadeStatus:
    """Ready and Accepted are False, the rest is unknown; transition times of what did not change are kept."""
    reason, message = refused.complaint
    conditions = [
        Condition(
            type=kind,
            status=_truth(kind),
            reason=reason,
            message=message[:1024],
            observed_generation=refused.generation,
        )
        for kind in ConditionType
    ]
    return CascadeStatus(
        observed_generation=refused.generation,
        conditions=merge_conditions(before.conditions if before else [], conditions, now=timestamp(now)),
    )


def _truth(kind: ConditionType) -> Literal["False", "Unknown"]:
    return "False" if kind in (ConditionType.READY, ConditionType.ACCEPTED) else "Unknown"

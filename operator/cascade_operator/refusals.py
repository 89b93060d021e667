"""The status of a cascade that never had a valid spec: it says which field is wrong. Pure."""

from __future__ import annotations

from typing import Literal

from cascade_api.reasons import ConditionType
from cascade_api.status import CascadeStatus, Condition, merge_conditions

from .planning.plans import timestamp
from .sources import Refused


def status_of_refused(refused: Refused, *, before: CascadeStatus | None, now: float) -> CascadeStatus:
    """Ready and Accepted are False, all others Unknown; conditions that did not change keep their transition times."""
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

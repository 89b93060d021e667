"""What `cascade explain` says: why a cascade runs what it runs, and what keeps it from being better. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.explanations import floor_line, latency_words, row_words
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType
from cascade_api.status import CascadeStatus, Condition

EVENTS_SHOWN: Final = 5
GOOD: Final = {
    ConditionType.PROGRESSING: "False",
    ConditionType.PAUSED: "False",
}
"""Conditions whose good value is not True."""


@dataclass(frozen=True)
class Explained:
    """What is known about one cascade; ``plan`` is None if there is none, or it was not asked for."""

    ref: CascadeRef
    status: CascadeStatus | None
    plan: Plan | None
    events: Sequence[tuple[str, str, str]]


def explained(ref: CascadeRef, raw: dict[str, Any], events: Sequence[dict[str, Any]]) -> Explained:
    """What a cascade's resource and its Events say."""
    return Explained(ref, _status(raw), None, _latest(events))


def as_text(found: Explained) -> str:
    """For people: what runs and why, what limits the quality, and what is wrong."""
    status = found.status
    if status is None:
        return f"{found.ref}: no operator has seen it yet: is one running for this namespace?"
    lines = [f"{found.ref}: {_headline(status)}"]
    if status.chain:
        lines.append(
            f"  chain     {status.path}: of all prompts {status.direct_percent} % go direct, "
            f"{status.escalated_percent} % escalate"
        )
        lines.append(
            f"  decided   {status.plan_reason} (plan {status.plan_generation}), {status.cost_per_hour} per hour"
        )
    for pool in status.pools:
        lines.append(f"  pool      {pool.name}: {pool.ready} of {pool.desired} ready, batch {pool.batch}")
    if status.quality is not None:
        lines.append(f"  floor     {floor_line(status.quality)}")
    allocation = status.condition(ConditionType.ALLOCATION_OPTIMAL)
    if allocation is not None and allocation.message:
        lines.append(f"  bound by  {allocation.message} ({allocation.reason})")
    if found.plan is not None:
        expected = found.plan.expected
        lines.append(
            f"  expects   {expected.demand:.2f} requests/s, {latency_words(expected)}, quality {expected.quality:.4g}"
        )
        lines += [f"  row       {row_words(row)}" for row in found.plan.rows]
    for condition in status.conditions:
        if condition.status != GOOD.get(condition.type, "True") and condition is not allocation:
            lines.append(f"  {condition.type}={condition.status} ({condition.reason}): {condition.message}")
    lines += [f"  event     {at} {reason}: {message}" for at, reason, message in found.events]
    return "\n".join(lines)


def as_data(found: Explained) -> dict[str, Any]:
    """The same as data, for programs."""
    return {
        "cascade": str(found.ref),
        "status": None if found.status is None else found.status.wire(),
        "plan": None if found.plan is None else json.loads(found.plan.to_json()),
        "events": [{"time": at, "reason": reason, "message": message} for at, reason, message in found.events],
    }


def _headline(status: CascadeStatus) -> str:
    ready: Condition | None = status.condition(ConditionType.READY)
    return "unknown" if ready is None else f"Ready={ready.status} ({ready.reason}): {ready.message}"


def _status(raw: dict[str, Any]) -> CascadeStatus | None:
    return CascadeStatus.model_validate(raw["status"]) if raw.get("status") else None


def _latest(events: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    ordered = sorted(events, key=lambda event: str(event.get("lastTimestamp") or ""))
    return [
        (str(event.get("lastTimestamp")), str(event.get("reason")), str(event.get("message")))
        for event in ordered[-EVENTS_SHOWN:]
    ]

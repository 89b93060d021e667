"""`cascade explain`: why a cascade on a cluster runs what it runs, and what keeps it from being better."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.command import CommandFailed
from cascade_api.explanations import floor_line
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType
from cascade_api.status import CascadeStatus, Condition

from .clusters.kubernetes.api import CASCADES, EVENTS, ApiAway, ApiRefused, KubernetesApi, connect
from .store import Store

EVENTS_SHOWN: Final = 5
GOOD: Final = {
    ConditionType.PROGRESSING: "False",
    ConditionType.PAUSED: "False",
}
"""Conditions whose good value is not True."""


@dataclass(frozen=True)
class Explained:
    """What is known about one cascade; ``plan`` is None if Redis was not asked or has none."""

    ref: CascadeRef
    status: CascadeStatus | None
    plan: Plan | None
    events: Sequence[tuple[str, str, str]]


async def explain(ref: CascadeRef, *, redis_url: str, timeout_s: float) -> Explained:
    """Ask the API server, and also Redis if its URL is given; raises CommandFailed."""
    api = KubernetesApi(connect(timeout_s=timeout_s), timeout_s=timeout_s)
    try:
        raw = await api.get(CASCADES, ref.namespace, ref.name)
        if raw is None:
            raise CommandFailed(f"there is no DiffusionCascade {ref.name!r} in namespace {ref.namespace!r}")
        events = await _events_of(api, ref, raw["metadata"]["uid"])
    except (ApiAway, ApiRefused) as error:
        raise CommandFailed(f"the cluster does not answer: {error}") from None
    finally:
        api.close()
    plan = None
    if redis_url:
        async with Store(redis_url) as store:
            plan = await store.plan(ref)
    return explained(ref, raw, events, plan)


def explained(
    ref: CascadeRef, raw: dict[str, Any], events: Sequence[dict[str, Any]], plan: Plan | None = None
) -> Explained:
    """What a cascade's resource, its Events and its plan say."""
    return Explained(ref, _status(raw), plan, _latest(events))


async def _events_of(api: KubernetesApi, ref: CascadeRef, uid: str) -> list[dict[str, Any]]:
    """The Events of a cascade; empty if this account may not read Events, as the operator's own may not."""
    try:
        events = await api.list(EVENTS, ref.namespace)
    except ApiRefused:
        return []
    return [event for event in events if (event.get("involvedObject") or {}).get("uid") == uid]


def as_text(found: Explained) -> str:
    """For people: what runs and why, what limits the quality, and what is wrong."""
    status = found.status
    if status is None:
        return f"{found.ref}: no operator has seen it yet: is one running for this namespace?"
    lines = [f"{found.ref}: {_headline(status)}"]
    if status.chain:
        lines.append(
            f"  chain     {status.path}: direct {status.direct_percent} %, "
            f"escalating {status.escalation_percent} % of the rest"
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
            f"  expects   {expected.demand:.2f} requests/s, p99 {expected.latency_p99:.2f} s, "
            f"quality {expected.quality:.4g}"
        )
        for row in found.plan.rows:
            lines.append(f"  row       {row.share:.0%}: direct {row.direct:.0%}, escalating {row.escalation:.0%}")
    for condition in status.conditions:
        if condition.status != GOOD.get(condition.type, "True") and condition is not allocation:
            lines.append(f"  {condition.type}={condition.status} ({condition.reason}): {condition.message}")
    lines += [f"  event     {at} {reason}: {message}" for at, reason, message in found.events]
    return "\n".join(lines)


def as_json(found: Explained) -> str:
    """The same as JSON, for programs."""
    return json.dumps(
        {
            "cascade": str(found.ref),
            "status": None if found.status is None else found.status.wire(),
            "plan": None if found.plan is None else json.loads(found.plan.to_json()),
            "events": [{"time": at, "reason": reason, "message": message} for at, reason, message in found.events],
        },
        indent=2,
    )


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

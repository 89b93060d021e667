"""Kubernetes Events for what people should know, with the same reasons as conditions and plans."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from cascade_api.explanations import plan_words, worth_telling
from cascade_api.names import API_VERSION, CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import CascadeStatus

from .clusters import ClusterFailed
from .clusters.kubernetes.api import EVENTS, KubernetesApi
from .planning.plans import timestamp

log = structlog.get_logger(__name__)

COMPONENT: Final = "diffusion-cascade-operator"
QUIET_S: Final = 60.0
"""The same Event for a cascade is not repeated within this time."""
AT_ONCE: Final = 200
"""Most Events that are being posted at a time; more are dropped, since conditions contain the same information."""

_TOLD: Final = (
    ConditionType.ACCEPTED,
    ConditionType.READY,
    ConditionType.POOLS_AVAILABLE,
    ConditionType.METRICS_AVAILABLE,
    ConditionType.ALLOCATION_OPTIMAL,
)
_UNEVENTFUL: Final = frozenset(
    {Reason.REPLICAS_STARTING, Reason.METRICS_MISSING, Reason.SOLVER_LIMIT, Reason.DEGRADING}
)
"""Reasons for which a condition is False in normal operation."""


@dataclass(frozen=True)
class Notice:
    """One Event."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def notices_of_status(before: CascadeStatus | None, after: CascadeStatus) -> Iterator[Notice]:
    """The Events for a change of conditions: those that became bad, or good again."""
    for kind in _TOLD:
        now = after.condition(kind)
        was = before.condition(kind) if before is not None else None
        if now is None or (was is not None and (was.status, was.reason) == (now.status, now.reason)):
            continue
        if now.status == "False" and now.reason not in _UNEVENTFUL:
            yield Notice("Warning", str(now.reason), now.message)
        elif now.status == "True" and was is not None and was.status == "False" and was.reason not in _UNEVENTFUL:
            yield Notice("Normal", str(now.reason), f"{kind}: {now.message}")


def notice_of_plan(plan: Plan, told: Plan | None) -> Notice | None:
    """The Event for a new plan; None if only its shares were adjusted."""
    if plan.reason is Reason.SHARES_ADJUSTED or not worth_telling(plan, told):
        return None
    return Notice("Normal", str(plan.reason), plan_words(plan))


class Notices:
    """Posts Events in the background. If the API server is away they are lost, and nothing waits for them."""

    def __init__(
        self, api: KubernetesApi, *, uid_of: Callable[[CascadeRef], str], clock: Callable[[], float] = time.time
    ) -> None:
        self._api = api
        self._uid_of = uid_of
        self._clock = clock
        self._said: dict[tuple[CascadeRef, Notice], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, ref: CascadeRef, notice: Notice) -> None:
        """Post an Event, unless the same one was posted within `QUIET_S`."""
        now = self._clock()
        self._said = {what: at for what, at in self._said.items() if now - at < QUIET_S}
        if (ref, notice) in self._said or len(self._tasks) >= AT_ONCE:
            return
        self._said[ref, notice] = now
        log.info("event", cascade=str(ref), kind=notice.kind, reason=notice.reason, message=notice.message)
        task = asyncio.create_task(self._send(ref, notice, now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, ref: CascadeRef, notice: Notice, now: float) -> None:
        try:
            await self._api.create(EVENTS, event(ref, notice, uid=self._uid_of(ref), now=now))
        except ClusterFailed as error:
            log.warning("an event was not posted", cascade=str(ref), error=str(error))


def event(ref: CascadeRef, notice: Notice, *, uid: str, now: float) -> dict[str, Any]:
    """The Event object."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name}.{secrets.token_hex(8)}", "namespace": ref.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "DiffusionCascade",
            "namespace": ref.namespace,
            "name": ref.name,
            "uid": uid,
        },
        "type": notice.kind,
        "reason": notice.reason,
        "message": notice.message[:1024],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "count": 1,
    }

"""Reports what the planner does on a cluster, with the same reasons in status, Events, metrics and logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

import structlog

from cascade_api.explanations import plan_line, worth_telling
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import Reason
from cascade_api.status import CascadeStatus, WorkerPoolStatus

from . import metrics
from .clusters import ClusterFailed
from .clusters.kubernetes.api import CASCADES, NOT_FOUND, ApiRefused, KubernetesApi
from .clusters.kubernetes.mirror import Mirror, MirroredDocument, Shelf
from .clusters.kubernetes.objects import Key
from .notices import Notice, Notices, notice_of_plan, notices_of_status
from .planning.planner import Decision
from .snapshot import PoolRef, Snapshot

log = structlog.get_logger(__name__)

REFUSED_PAUSE_S: Final = 30.0
"""If the API server refused a status, it is offered again only after this time."""


class Written(Enum):
    """What became of a status: it was written, must be tried again, or its resource is gone."""

    YES, NO, GONE = range(3)


class ClusterReporter:
    """The reporter for an operator on a cluster."""

    def __init__(
        self, api: KubernetesApi, mirror: Mirror, notices: Notices, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._api = api
        self._mirror = mirror
        self._notices = notices
        self._clock = clock
        self._statuses: dict[CascadeRef, CascadeStatus] = {}
        self._told: dict[CascadeRef, Plan] = {}
        self._refused_until_s: dict[tuple[str, Key], float] = {}

    async def status(self, ref: CascadeRef, status: CascadeStatus) -> bool:
        written = await self._write(self._mirror.cascades, (ref.namespace, ref.name), status)
        if written is not Written.YES:
            return written is Written.GONE
        for notice in notices_of_status(self._statuses.get(ref), status):
            self._notices.post(ref, notice)
        self._statuses[ref] = status
        metrics.record_status(ref, status)
        return True

    async def pool_status(self, ref: PoolRef, status: WorkerPoolStatus) -> bool:
        written = await self._write(self._mirror.worker_pools, (ref.namespace, ref.name), status)
        return written is not Written.NO

    async def _write(
        self, shelf: Shelf[MirroredDocument], key: Key, status: CascadeStatus | WorkerPoolStatus
    ) -> Written:
        """Write the status of a resource."""
        now, kind, name = self._clock(), shelf.resource.plural, "/".join(key)
        if now < self._refused_until_s.get((kind, key), 0.0):
            return Written.NO
        # An empty text means an absent one. Old API servers would take it for null and refuse it, so it is removed.
        patch = {"status": {name: None if value == "" else value for name, value in status.wire().items()}}
        try:
            shelf.put(await self._api.merge(shelf.resource, *key, patch, subresource="status"))
        except ApiRefused as refused:
            if refused.status == NOT_FOUND:
                # It has been deleted, so there is nothing to report.
                return Written.GONE
            log.error("a status was refused", kind=kind, name=name, error=str(refused))
            self._refused_until_s[kind, key] = now + REFUSED_PAUSE_S
            return Written.NO
        except ClusterFailed as error:
            log.warning("a status could not be written; it is tried again", kind=kind, name=name, error=str(error))
            return Written.NO
        self._refused_until_s.pop((kind, key), None)
        return Written.YES

    def plan(self, plan: Plan) -> None:
        metrics.PLANS.labels(plan.cascade, str(plan.reason)).inc()
        metrics.show_plan(plan)
        told = self._told.get(plan.ref)
        notice = notice_of_plan(plan, told)
        if worth_telling(plan, told):
            self._told[plan.ref] = plan
            log.info(
                "plan", cascade=plan.cascade, reason=str(plan.reason), generation=plan.generation, plan=plan_line(plan)
            )
        if notice is not None:
            self._notices.post(plan.ref, notice)

    def decided(self, snapshot: Snapshot, decision: Decision, took_s: float) -> None:
        metrics.record_decision(snapshot, decision, took_s=took_s, now=self._clock())
        for view in snapshot.cascades:
            # What an earlier operator has reported need not be reported again.
            ref = view.cascade.ref
            if view.status is not None and ref not in self._statuses:
                self._statuses[ref] = view.status
                metrics.record_status(ref, view.status)
            if view.plan is not None and ref not in self._told:
                self._told[ref] = view.plan
                metrics.show_plan(view.plan)

    def failed(self, error: Exception) -> None:
        metrics.TICKS.labels("failed").inc()

    def notice(self, ref: CascadeRef, reason: Reason, message: str) -> None:
        """Report something that people should know, in addition to statuses and plans."""
        if reason is Reason.EDIT_REVERTED:
            metrics.REVERTED.labels(str(ref)).inc()
        log.warning("notice", cascade=str(ref), reason=str(reason), message=message)
        self._notices.post(ref, Notice("Warning", str(reason), message))

    def gone(self, ref: CascadeRef) -> None:
        self._statuses.pop(ref, None)
        self._told.pop(ref, None)
        self._refused_until_s.pop((CASCADES.plural, (ref.namespace, ref.name)), None)
        metrics.forget(ref)

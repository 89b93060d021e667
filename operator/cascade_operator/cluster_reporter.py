"""Reports what the planner does on a cluster, with the same reasons in status, Events, metrics and logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from cascade_api.explanations import plan_line, worth_telling
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import Reason
from cascade_api.status import CascadeStatus

from . import metrics
from .clusters import ClusterFailed
from .clusters.kubernetes.api import CASCADES, NOT_FOUND, ApiRefused, KubernetesApi
from .clusters.kubernetes.mirror import Mirror
from .notices import Notice, Notices, notice_of_plan, notices_of_status
from .planning.planner import Decision
from .snapshot import Snapshot

log = structlog.get_logger(__name__)

REFUSED_PAUSE_S: Final = 30.0
"""If the API server refused a status, it is offered again only after this time."""


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
        self._refused_until_s: dict[CascadeRef, float] = {}

    async def status(self, ref: CascadeRef, status: CascadeStatus) -> bool:
        now = self._clock()
        if now < self._refused_until_s.get(ref, 0.0):
            return False
        # An empty text means an absent one. Old API servers would take it for null and refuse it, so it is removed.
        patch = {"status": {name: None if value == "" else value for name, value in status.wire().items()}}
        try:
            written = await self._api.merge(CASCADES, ref.namespace, ref.name, patch, subresource="status")
            self._mirror.cascades.put(written)
        except ApiRefused as refused:
            if refused.status == NOT_FOUND:
                # The cascade has been deleted, so there is nothing to report.
                return True
            log.error("a status was refused", cascade=str(ref), error=str(refused))
            self._refused_until_s[ref] = now + REFUSED_PAUSE_S
            return False
        except ClusterFailed as error:
            log.warning("a status could not be written; it is tried again", cascade=str(ref), error=str(error))
            return False
        for notice in notices_of_status(self._statuses.get(ref), status):
            self._notices.post(ref, notice)
        self._statuses[ref] = status
        metrics.record_status(ref, status)
        return True

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
        self._refused_until_s.pop(ref, None)
        metrics.forget(ref)

"""Reports what the planner does in local mode: lines for the user, and a status file for each cascade."""

from __future__ import annotations

from collections.abc import Callable

from cascade_api.explanations import plan_line, worth_telling
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.status import CascadeStatus, WorkerPoolStatus

from ..planning.planner import Decision
from ..snapshot import PoolRef, Snapshot


class LocalReporter:
    """Stores statuses by ``keep_status``, and prints a line by ``say`` for each notable change of plan."""

    def __init__(self, *, say: Callable[[str], None], keep_status: Callable[[CascadeRef, CascadeStatus], None]) -> None:
        self._say = say
        self._keep_status = keep_status
        self._told: dict[CascadeRef, Plan] = {}

    async def status(self, ref: CascadeRef, status: CascadeStatus) -> bool:
        self._keep_status(ref, status)
        return True

    async def pool_status(self, ref: PoolRef, status: WorkerPoolStatus) -> bool:
        """Do nothing: what workers host is said of the slots."""
        return True

    def plan(self, plan: Plan) -> None:
        if worth_telling(plan, self._told.get(plan.ref)):
            self._told[plan.ref] = plan
            self._say(plan_line(plan))

    def decided(self, snapshot: Snapshot, decision: Decision, took_s: float) -> None:
        """Do nothing: local mode has no metrics of single decisions."""

    def failed(self, error: Exception) -> None:
        self._say(f"planner: a decision failed ({type(error).__name__}: {error}); the last plan stays in force")

    def gone(self, ref: CascadeRef) -> None:
        """Do nothing: the cascades of a local run exist as long as the run."""

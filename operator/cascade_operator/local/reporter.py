"""What the planner tells in local mode: lines for the person who started it, and a status file per cascade."""

from __future__ import annotations

from collections.abc import Callable

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.status import CascadeStatus

from ..explanations import plan_line, worth_telling
from ..planning.planner import Decision
from ..snapshot import Snapshot


class LocalReporter:
    """Keeps statuses through ``keep_status`` and says a line through ``say`` for each notable change of plan."""

    def __init__(self, *, say: Callable[[str], None], keep_status: Callable[[CascadeRef, CascadeStatus], None]) -> None:
        self._say = say
        self._keep_status = keep_status
        self._told: dict[CascadeRef, Plan] = {}

    async def status(self, ref: CascadeRef, status: CascadeStatus) -> bool:
        self._keep_status(ref, status)
        return True

    def plan(self, plan: Plan) -> None:
        if worth_telling(plan, self._told.get(plan.ref)):
            self._told[plan.ref] = plan
            self._say(plan_line(plan))

    def decided(self, snapshot: Snapshot, decision: Decision, took_s: float) -> None:
        """Nobody asks for figures of single decisions here."""

    def failed(self, error: Exception) -> None:
        self._say(f"planner: a decision failed ({type(error).__name__}: {error}); the last plan holds")

    def gone(self, ref: CascadeRef) -> None:
        """A local run's cascades stay as long as it."""

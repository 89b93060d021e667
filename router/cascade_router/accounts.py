"""Counts how each request ended, exactly once: in metrics, in the log, and in the reports to the planner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from . import metrics
from .admission import Admitted
from .deliveries import Undelivered
from .reporting import DemandCounter
from .requests import GenerateRequest, RequestRefused

log = structlog.get_logger(__name__)

UNKNOWN_CASCADE: Final = "none"


class Accounts:
    """The accounts of one router.

    Args:
        log_prompts: whether the log contains prompts.
        clock: monotonic seconds.
    """

    def __init__(self, *, demand: DemandCounter, log_prompts: bool, clock: Callable[[], float]) -> None:
        self._demand = demand
        self._log_prompts = log_prompts
        self._clock = clock

    def admitted(self, each: Admitted, *, protocol: str) -> None:
        """Count an admitted request; it is demand, however it ends."""
        each.runtime.tally.received += 1
        metrics.of(metrics.REQUESTS, each.runtime.name, protocol).inc()
        self._demand.add(each.runtime.ref, at_s=time.time())

    def answered(self, made: Undelivered) -> None:
        """Count a request whose image was sent."""
        runtime, request, answer = made.admitted.runtime, made.admitted.request, made.answer
        now = self._clock()
        latency_s, late = now - made.admitted.received, now > made.admitted.deadline
        route = str(answer.route)
        runtime.tally.answered(answer.route, latency_s=latency_s, late=late, now=now)
        metrics.of(metrics.ANSWERS, runtime.name, route, answer.variant).inc()
        metrics.of(metrics.LATENCY, runtime.name, route).observe(latency_s)
        if late:
            metrics.of(metrics.VIOLATIONS, runtime.name).inc()
        if self._log_prompts:
            self._log("answered", request, cascade=runtime.name, route=route, variant=answer.variant)

    def refused(self, each: Admitted, refused: RequestRefused) -> None:
        """Count an admitted request that got no image."""
        runtime = each.runtime
        metrics.of(metrics.REFUSALS, runtime.name, str(refused.reason)).inc()
        if runtime.tally.refused(refused.reason):
            metrics.of(metrics.VIOLATIONS, runtime.name).inc()
        self._log("refused", each.request, cascade=runtime.name, reason=str(refused.reason))

    def turned_away(self, request: GenerateRequest, refused: RequestRefused) -> None:
        """Count a call that was not admitted; ``request`` is its first."""
        self.invalid(refused)
        self._log("refused", request, cascade=UNKNOWN_CASCADE, reason=str(refused.reason))

    def invalid(self, refused: RequestRefused) -> None:
        """Count a call that was not valid."""
        metrics.of(metrics.REFUSALS, UNKNOWN_CASCADE, str(refused.reason)).inc()

    def _log(self, event: str, request: GenerateRequest, **what: Any) -> None:
        prompt = {"prompt": request.prompt.text} if self._log_prompts else {}
        if request.end_user:
            what["user"] = request.end_user
        latency_s = round(self._clock() - request.receipt.at, 4)
        log.info(event, request=request.id, **what, latency_s=latency_s, **prompt)

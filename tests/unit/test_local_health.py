"""A model is healthy while it answers: answers to clients count, and a probe is sent only if there are none."""

from __future__ import annotations

from cascade_api.worker_requests import Parameters
from cascade_operator.local.health import PROBE_EVERY_S, ModelHealth
from cascade_operator.local.triton import InferenceCounts, TritonError
from support.waiting import StoppedClock


class Model:
    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.probes = 0
        self.error: str | None = None

    async def counts(self, model: str) -> InferenceCounts:
        return InferenceCounts(self.succeeded, self.failed)

    async def probe(self, model: str, parameters: Parameters, *, timeout_s: float) -> None:
        self.probes += 1
        if self.error:
            raise TritonError(self.error)
        self.succeeded += 1


async def settled() -> tuple[Model, StoppedClock, ModelHealth]:
    """A model that was looked at once."""
    model, clock = Model(), StoppedClock()
    health = ModelHealth(clock=clock)
    assert await health.complaint(model, "light", {}) is None
    model.probes = 0
    return model, clock, health


async def test_a_busy_model_is_never_probed() -> None:
    model, clock, health = await settled()
    for _ in range(10):
        clock.now += 1.0
        model.succeeded += 5
        assert await health.complaint(model, "light", {}) is None
    assert model.probes == 0


async def test_an_idle_model_is_probed_every_two_seconds() -> None:
    model, clock, health = await settled()
    for _ in range(12):
        clock.now += 0.5
        assert await health.complaint(model, "light", {}) is None
    assert model.probes == round(6.0 / PROBE_EVERY_S)


async def test_a_failure_of_a_client_calls_for_a_probe_at_once() -> None:
    model, clock, health = await settled()
    clock.now += 0.5
    model.succeeded, model.failed, model.error = model.succeeded + 3, 1, "INTERNAL: stub process is not healthy"
    assert await health.complaint(model, "light", {}) == "INTERNAL: stub process is not healthy"


async def test_a_probe_that_waits_behind_work_in_progress_is_no_complaint() -> None:
    model, clock, health = await settled()
    clock.now += PROBE_EVERY_S

    async def slow(name: str, parameters: Parameters, *, timeout_s: float) -> None:
        model.succeeded += 8
        raise TritonError("DEADLINE_EXCEEDED: Deadline Exceeded")

    model.probe = slow  # type: ignore[method-assign]
    assert await health.complaint(model, "light", {}) is None


async def test_a_probe_that_hangs_while_nothing_is_answered_is_a_complaint() -> None:
    model, clock, health = await settled()
    clock.now += PROBE_EVERY_S
    model.error = "DEADLINE_EXCEEDED: Deadline Exceeded"
    assert await health.complaint(model, "light", {}) == "DEADLINE_EXCEEDED: Deadline Exceeded"


async def test_a_probe_that_is_taken_and_hangs_alone_is_a_complaint() -> None:
    model, clock, health = await settled()
    clock.now += PROBE_EVERY_S

    async def taken(name: str, parameters: Parameters, *, timeout_s: float) -> None:
        model.succeeded += 1
        raise TritonError("DEADLINE_EXCEEDED: Deadline Exceeded")

    model.probe = taken  # type: ignore[method-assign]
    assert await health.complaint(model, "light", {}) == "DEADLINE_EXCEEDED: Deadline Exceeded"

"""Chance in the timings of a quick model leaves no contradiction in its profile."""

from __future__ import annotations

from cascade_api.profile import Execution
from cascade_profiler.measure.execution import no_shorter_than_smaller


def row(variant: str, batch: int, *micros: int) -> Execution:
    p50, p95, p99 = micros
    return Execution(
        variant=variant,
        accelerator_class="cpu",
        size="32x32",
        batch=batch,
        p50_micros=p50,
        p95_micros=p95,
        p99_micros=p99,
        memory_mi_b=1,
    )


def test_a_batch_takes_no_less_than_a_smaller_one_of_its_variant() -> None:
    measured = [
        row("light", 4, 2900, 4000, 5000),
        row("light", 1, 3000, 3500, 6000),
        row("light", 2, 2700, 3600, 3700),
        row("heavy", 2, 1, 2, 3),
    ]
    assert no_shorter_than_smaller(measured) == [
        row("light", 4, 3000, 4000, 6000),
        row("light", 1, 3000, 3500, 6000),
        row("light", 2, 3000, 3600, 6000),
        row("heavy", 2, 1, 2, 3),
    ]

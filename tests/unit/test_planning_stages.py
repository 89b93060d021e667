"""Columns and usable rows of a chain under an objective."""

from __future__ import annotations

import pytest

from cascade_operator.planning.allocation.frontier import measured
from cascade_operator.planning.allocation.stages import ProfileTimings, Role, ServiceLevel, Stages, stages_of
from support.factories import make_profile

CLASSES = {"light": ("cpu",), "heavy": ("cpu",)}


def make_stages(*, objective_s: float = 2.0, degrade: bool = True, memory: int = 0, **profile: object) -> Stages:
    spec = make_profile(**profile).spec  # type: ignore[arg-type]
    level = ServiceLevel(objective_s, 0.99, degrade, light_utilisation=0.95, heavy_utilisation=0.97)
    timings = ProfileTimings(spec, memory_mib={"cpu": memory})
    return stages_of(measured(spec, variants=CLASSES).chains[0], timings=timings, classes=CLASSES, level=level)


def test_the_light_stage_includes_the_discriminator_and_the_heavy_one_does_not() -> None:
    found = make_stages()
    assert found.of(Role.LIGHT)[0].rate == pytest.approx(1 / 0.0035)
    assert found.of(Role.HEAVY)[0].rate == pytest.approx(25)


def test_a_variant_alone_is_one_stage_without_the_discriminator_that_keeps_its_promise_to_everybody() -> None:
    alone = [{"chain": ["light"], "valuesMilli": {"q2": 670}}]
    strict, degrading = (make_stages(quality=alone, degrade=degrade) for degrade in (False, True))
    assert strict == degrading, "nothing stands in for what comes too late"
    (column,) = strict.columns
    assert (column.role, column.variant) == (Role.HEAVY, "light")
    assert column.rate == pytest.approx(1 / 0.0025)
    assert 0 < column.reserve == column.direct_reserve
    assert [(row.light_load, row.heavy_load) for row in strict.chain.rows] == [(0, 1)]


def test_a_batch_that_serves_no_faster_is_left_out() -> None:
    assert [column.service.batch for column in make_stages().columns] == [1, 1]


def test_a_batch_that_serves_faster_is_kept() -> None:
    execution = [
        {
            "variant": v,
            "class": "cpu",
            "size": "32x32",
            "batch": b,
            "p50Micros": int(us * b**0.7),
            "p95Micros": int(us * b**0.7),
        }
        for v, us in (("light", 2500), ("heavy", 40_000))
        for b in (1, 2, 4, 8)
    ]
    assert len(make_stages(execution=execution).columns) == 8


def test_rows_that_escalate_are_left_out_where_both_stages_do_not_fit_the_objective() -> None:
    found = make_stages(light_ms=900, heavy_ms=1200)
    assert found.chain.rows
    assert not any(row.escalated for row in found.chain.rows)
    assert {column.role for column in found.columns} == {Role.LIGHT, Role.HEAVY}


def test_rows_that_need_a_variant_too_slow_for_the_objective_are_left_out() -> None:
    found = make_stages(heavy_ms=2100)
    assert {row.heavy_load for row in found.chain.rows} == {0.0}
    assert {column.role for column in found.columns} == {Role.LIGHT}


def test_strict_overload_keeps_more_of_the_heavy_pool_idle_than_degrading_does() -> None:
    degrading, strict = make_stages(degrade=True).of(Role.HEAVY)[0], make_stages(degrade=False).of(Role.HEAVY)[0]
    assert degrading.reserve == 0 < strict.reserve == strict.direct_reserve


def test_degrading_keeps_idle_time_for_what_goes_to_the_heavy_pool_directly_and_has_nothing_else() -> None:
    heavy = make_stages(degrade=True).of(Role.HEAVY)[0]
    assert 0 < heavy.direct_reserve < make_stages(degrade=False).of(Role.HEAVY)[0].direct_reserve


def test_degrading_leaves_the_light_stage_the_whole_objective() -> None:
    degrading, strict = make_stages(degrade=True).of(Role.LIGHT)[0], make_stages(degrade=False).of(Role.LIGHT)[0]
    assert 0 < degrading.reserve < strict.reserve


def test_a_batch_that_does_not_fit_the_memory_is_left_out() -> None:
    execution = [
        {
            "variant": v,
            "class": "cpu",
            "size": "32x32",
            "batch": b,
            "p50Micros": int(us * b**0.5),
            "p95Micros": int(us * b**0.5),
            "memoryMiB": 100 * b,
        }
        for v, us in (("light", 2500), ("heavy", 40_000))
        for b in (1, 2, 4)
    ]
    found = make_stages(execution=execution, memory=250)
    assert {column.service.batch for column in found.columns} == {1, 2}

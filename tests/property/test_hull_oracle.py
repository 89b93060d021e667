"""Workers that host every variant: the walk along the hull finds what a linear program finds over all rows.

And cascades that compete for such workers get them as the best of all ways to hand them out would have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_api.names import CascadeRef
from cascade_operator.planning.allocation.fluid import allocate_fluid
from cascade_operator.planning.allocation.frontier import Chain, Frontier, Row
from cascade_operator.planning.allocation.hull import HostSet, Hull, hull_of
from cascade_operator.planning.allocation.latency import BatchService
from cascade_operator.planning.allocation.problem import AllocationProblem, CascadeProblem, Placement, WorkerBounds
from cascade_operator.planning.allocation.programs import LinearProgram, SolveStatus
from cascade_operator.planning.allocation.shares import shared_on
from cascade_operator.planning.allocation.stages import SHED_PRICE, Column, Role, ServiceLevel, Stages

CLASS = "gpu"
LEVEL = ServiceLevel(60.0, 0.99, degrade=False, light_utilisation=1.0, heavy_utilisation=1.0)
ALL = HostSet(("a", "b", "c"), CLASS)
SECONDS = st.integers(1, 400).map(lambda hundredths: hundredths / 100)
PERCENT = st.integers(0, 100).map(lambda percent: percent / 100)
ROWS = st.lists(st.tuples(PERCENT, PERCENT, PERCENT), min_size=1, max_size=8)
CHAINS = (("a", "b"), ("a", "c"), ("b", "c"))


def column(variant: str, role: Role, seconds: float) -> Column:
    return Column(variant, CLASS, role, BatchService(1, seconds, seconds), reserve=0.0, direct_reserve=0.0)


@st.composite
def stages(draw: st.DrawFn, prices: Sequence[float] = (0.0, 0.1, 1.0)) -> tuple[Stages, ...]:
    """Chains of three variants with any rows, and any price of accelerator time."""
    seconds = {name: draw(SECONDS) for name in "abc"}
    price = draw(st.sampled_from(prices))
    chains = draw(st.lists(st.sampled_from(CHAINS), min_size=1, max_size=3, unique=True))
    return tuple(
        Stages(
            Chain(chain, tuple(Row(chain, direct, escalation, value) for direct, escalation, value in draw(ROWS))),
            (column(chain[0], Role.LIGHT, seconds[chain[0]]), column(chain[1], Role.HEAVY, seconds[chain[1]])),
            second_price=price,
        )
        for chain in chains
    )


def hull(of: tuple[Stages, ...]) -> Hull:
    return hull_of(of, weights={name: name for name in ALL.weights}, accelerator_class=CLASS)


def problem(name: str, of: tuple[Stages, ...], demand: float, weight: float) -> CascadeProblem:
    return CascadeProblem(
        ref=CascadeRef("default", name),
        frontier=Frontier(tuple(each.chain for each in of), 0.0, 1.0),
        stages=of,
        level=LEVEL,
        demand=demand,
        light_utilisation=1.0,
        heavy_utilisation=1.0,
        min_hosts={},
        workers={CLASS: WorkerBounds(0, 10)},
        classes={},
        weight=weight,
        hull=hull(of),
    )


def taken_s(row: Row, of: Stages) -> float:
    light, heavy = of.columns
    return row.light_load * light.service.p50_s + row.heavy_load * heavy.service.p50_s


def solved(of: tuple[Stages, ...], seconds: float) -> float | None:
    """The most that so many seconds per prompt can be worth, by a program over all rows; None: they are too few."""
    program = LinearProgram(integer=False)
    shares: dict[int, float] = {}
    for each in of:
        for row in each.chain.rows:
            used = taken_s(row, each)
            shares[program.variable(value=row.value - each.second_price * used)] = used
    program.equal(dict.fromkeys(shares, 1.0), 1.0)
    program.at_most(shares, seconds)
    answer = program.solve()
    return answer.objective if answer.status is SolveStatus.OPTIMAL else None


@given(of=stages(), seconds=st.floats(0.01, 10))
@settings(max_examples=300)
def test_the_walk_along_the_hull_is_the_best_mixture_of_all_rows(of: tuple[Stages, ...], seconds: float) -> None:
    mixture, gain = hull(of).mixture(seconds)
    assert sum(portion.share for portion in mixture) == pytest.approx(1)
    best = solved(of, seconds)
    cheapest_s = hull(of).corners[0].seconds
    if best is None:
        assert seconds < cheapest_s + 1e-9
        return
    if seconds < cheapest_s - 1e-6:
        return  # a row beside the hull's first corner is as cheap only within the solver's tolerance
    assert gain == pytest.approx(best, abs=1e-5)
    taken = sum(
        portion.share * taken_s(portion.row, next(each for each in of if portion.row in each.chain.rows))
        for portion in mixture
    )
    assert taken <= max(seconds, cheapest_s) + 1e-6


@given(of=stages(prices=[0.0]), seconds=st.floats(0.01, 10), floor=PERCENT)
@settings(max_examples=300)
def test_a_floor_takes_the_least_work_that_holds_it_and_else_the_best_is_bought(
    of: tuple[Stages, ...], seconds: float, floor: float
) -> None:
    floored = replace(hull(of), floor=floor)
    mixture, gain = floored.mixture(seconds)
    program = LinearProgram(integer=False)
    rows = [(row, taken_s(row, each)) for each in of for row in each.chain.rows]
    shares = {program.variable(value=-used): (row, used) for row, used in rows}
    program.equal(dict.fromkeys(shares, 1.0), 1.0)
    program.at_least({share: row.value for share, (row, _) in shares.items()}, floor)
    least = program.solve()
    if least.status is SolveStatus.OPTIMAL and -least.objective < seconds - 1e-6:
        assert gain >= floor - 1e-6
        taken = sum(p.share * next(used for row, used in rows if row == p.row) for p in mixture)
        assert taken == pytest.approx(max(-least.objective, floored.corners[0].seconds), abs=1e-5)
    else:
        assert gain == hull(of).mixture(seconds)[1]


@given(cases=st.lists(st.tuples(stages(), st.floats(0.1, 8), st.sampled_from([1.0, 3.0])), min_size=1, max_size=3),
       there=st.integers(0, 6))  # fmt: skip
@settings(max_examples=100)
def test_workers_are_handed_out_as_the_best_of_all_ways_would(
    cases: list[tuple[tuple[Stages, ...], float, float]], there: int
) -> None:
    cascades = [problem(f"c{i}", of, demand, weight) for i, (of, demand, weight) in enumerate(cases)]
    asked = AllocationProblem(tuple(cascades), {CLASS: there}, {CLASS: 1.0})
    answers = allocate_fluid(asked, [(c, c.hull) for c in cascades if c.hull], left=asked.accelerators)
    got = [sum(answers[c.ref].hosts.values()) for c in cascades]
    assert sum(got) <= there

    def worth(counts: list[int] | tuple[int, ...]) -> float:
        return sum(
            c.weight * (shared_on(c, Placement({ALL: n})).score if n else -SHED_PRICE)
            for c, n in zip(cascades, counts, strict=True)
        )

    best = max(worth(counts) for counts in product(range(there + 1), repeat=len(cascades)) if sum(counts) <= there)
    assert worth(got) == pytest.approx(best, abs=1e-4)

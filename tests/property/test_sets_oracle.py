"""Where memory holds some variants only: the integer program finds what trying every count of every set finds."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.planning.allocation.frontier import Chain, Row
from cascade_operator.planning.allocation.hull import Hull, hull_of
from cascade_operator.planning.allocation.latency import BatchService
from cascade_operator.planning.allocation.sets import (
    LEAST_WORKERS_PRICE,
    OnSets,
    Weighed,
    allocate_on_sets,
    best_on_sets,
    maximal_sets,
)
from cascade_operator.planning.allocation.stages import SHED_PRICE, Column, Role, Stages

CLASS, NAMES = "gpu", "abc"
SECONDS = st.integers(1, 300).map(lambda hundredths: hundredths / 100)
PERCENT = st.integers(0, 100).map(lambda percent: percent / 100)
ROWS = st.lists(st.tuples(PERCENT, PERCENT, PERCENT), min_size=1, max_size=4)
CHAINS = (("a", "b"), ("a", "c"), ("b", "c"))


def column(variant: str, role: Role, seconds: float) -> Column:
    return Column(variant, CLASS, role, BatchService(1, seconds, seconds), reserve=0.0, direct_reserve=0.0)


@st.composite
def hulls(draw: st.DrawFn) -> Hull:
    seconds = {name: draw(SECONDS) for name in NAMES}
    chains = draw(st.lists(st.sampled_from(CHAINS), min_size=1, max_size=3, unique=True))
    stages = [
        Stages(
            Chain(chain, tuple(Row(chain, *point) for point in draw(ROWS))),
            (column(chain[0], Role.LIGHT, seconds[chain[0]]), column(chain[1], Role.HEAVY, seconds[chain[1]])),
        )
        for chain in chains
    ]
    return hull_of(stages, weights={name: name for name in NAMES}, accelerator_class=CLASS)


def worth(found: OnSets) -> float:
    served = (1 - found.shed) * found.gain - SHED_PRICE * found.shed
    return served - LEAST_WORKERS_PRICE * sum(found.workers.values())


@given(hull=hulls(), demand=st.floats(0.1, 6), most=st.integers(1, 4), size=st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_the_program_finds_the_best_of_all_counts(hull: Hull, demand: float, most: int, size: int) -> None:
    sets = maximal_sets([Weighed(name, (name,), 1) for name in NAMES], size, CLASS)
    found = allocate_on_sets(
        hull, hull.rows, sets, demand=demand, utilisation=1.0, least=0, most=most, running={}, load_price={}
    )
    assert sum(found.workers.values()) <= most

    def with_counts(counts: tuple[int, ...]) -> float:
        workers = {hosts: count for hosts, count in zip(sets, counts, strict=True) if count}
        return worth(best_on_sets(hull, hull.rows, demand=demand, utilisation=1.0, workers=workers))

    tried = (counts for counts in product(range(most + 1), repeat=len(sets)) if sum(counts) <= most)
    best = max(with_counts(counts) for counts in tried)
    answer = worth(best_on_sets(hull, hull.rows, demand=demand, utilisation=1.0, workers=found.workers))
    assert answer == pytest.approx(best, abs=1e-3)


@given(memory=st.lists(st.integers(1, 9), min_size=1, max_size=5), there=st.integers(1, 20))
def test_sets_fit_and_have_no_room_for_more(memory: list[int], there: int) -> None:
    weights = [Weighed(name, (name,), memory_mib) for name, memory_mib in zip("abcde", memory, strict=False)]
    used = {name: weight.memory_mib for weight in weights for name in weight.variants}
    sets = [set(hosts.weights) for hosts in maximal_sets(weights, there, CLASS)]
    for own in sets:
        total = sum(used[name] for name in own)
        assert total <= there
        assert all(total + used[name] > there for name in used.keys() - own)
    for count in range(1, len(used) + 1):
        for some in combinations(used, count):
            if sum(used[name] for name in some) <= there:
                assert any(set(some) <= own for own in sets)

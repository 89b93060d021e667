"""Several cascades on one pool: what is bought and packed is feasible, and as good as the programs find."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.planning.allocation.hull import HostSet
from cascade_operator.planning.allocation.pooling import Curve, allocate_on_pool, loads_needed, points_of, spend
from cascade_operator.planning.allocation.sets import (
    User,
    Weighed,
    allocate_on_sets,
    best_on_sets,
    maximal_sets,
    needed_mib,
)
from cascade_operator.planning.allocation.stages import SHED_PRICE
from support.users import CLASS, NAMES, users

FLEETS = st.lists(users(), min_size=1, max_size=3)


def worth(fleet: list[User], workers: dict[HostSet, int]) -> float:
    """What all cascades are worth together at their best on these workers."""
    return sum(
        user.weight * ((1 - found.shed) * found.gain - SHED_PRICE * found.shed)
        for user, found in zip(fleet, best_on_sets(fleet, workers), strict=True)
    )


def own_weights(fleet: list[User]) -> list[User]:
    """The cascades with weights of their own."""
    return [
        replace(user, hull=replace(user.hull, weights={name: f"{name}{number}" for name in NAMES}))
        for number, user in enumerate(fleet)
    ]


@given(fleet=FLEETS, workers=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_buying_the_best_pieces_is_worth_what_the_program_finds(fleet: list[User], workers: int) -> None:
    curves = [Curve(points_of(user, NAMES), user.most) for user in fleet]
    spent = spend(curves, workers)
    assert sum(spent) <= workers + 1e-9
    assert all(work <= user.most + 1e-9 for work, user in zip(spent, fleet, strict=True))
    found = allocate_on_pool(
        fleet, [Weighed(name, (name,), 1) for name in NAMES], memory_mib=0, accelerator_class=CLASS, most=workers
    )
    assert found.worth == pytest.approx(worth(fleet, {HostSet.of(NAMES, CLASS): workers}), abs=1e-3)
    assert found.bound == found.worth


@given(
    fleet=FLEETS,
    own=st.booleans(),
    sizes=st.lists(st.integers(1, 5), min_size=9, max_size=9),
    part=st.integers(0, 3),
    most=st.integers(1, 4),
    memory=st.integers(8, 14),
)
@settings(max_examples=100, deadline=None)
def test_what_workers_host_fits_and_gives_every_cascade_what_is_promised(
    fleet: list[User], own: bool, sizes: list[int], part: int, most: int, memory: int
) -> None:
    fleet = own_weights(fleet) if own else fleet
    digests = sorted({digest for user in fleet for digest in user.hull.weights.values()})
    weights = [Weighed(d, (d,), size, {d[1:]: part} if part else {}) for d, size in zip(digests, sizes, strict=False)]
    found = allocate_on_pool(fleet, weights, memory_mib=memory, accelerator_class=CLASS, most=most)
    known = {each.digest: each for each in weights}
    assert sum(found.workers.values()) <= most
    assert all(needed_mib([known[digest] for digest in hosts.weights]) <= memory for hosts in found.workers)
    assert worth(fleet, dict(found.workers)) >= found.worth - 1e-3
    _, best = allocate_on_sets(
        fleet, maximal_sets(weights, memory, CLASS), least=0, most=most, running={}, load_price={}
    )
    exact = sum(
        user.weight * ((1 - each.shed) * each.gain - SHED_PRICE * each.shed)
        for user, each in zip(fleet, best, strict=True)
    )
    assert found.worth - 1e-3 <= exact <= found.bound + 1e-2


@given(
    fleet=FLEETS,
    sizes=st.lists(st.integers(1, 5), min_size=9, max_size=9),
    most=st.integers(100, 1000),
    memory=st.integers(8, 14),
)
@settings(max_examples=50, deadline=None)
def test_memory_hardly_binds_where_workers_are_many(
    fleet: list[User], sizes: list[int], most: int, memory: int
) -> None:
    fleet = [replace(user, demand=100 * user.demand, most=100 * user.most) for user in own_weights(fleet)]
    digests = sorted({digest for user in fleet for digest in user.hull.weights.values()})
    weights = [Weighed(d, (d,), size) for d, size in zip(digests, sizes, strict=False)]
    found = allocate_on_pool(fleet, weights, memory_mib=memory, accelerator_class=CLASS, most=most)
    assert sum(found.workers.values()) <= most
    assert found.worth >= found.bound - 0.01 * abs(found.bound) - 1e-3


@given(
    fleet=FLEETS,
    sizes=st.lists(st.integers(1, 5), min_size=9, max_size=9),
    most=st.integers(1, 6),
    rise=st.sampled_from([1.0, 1.01, 3.0]),
    price=st.sampled_from([0.01, 1e6]),
)
@settings(max_examples=100, deadline=None)
def test_workers_stay_as_they_are_unless_other_hosts_gain_more_than_their_loads_must(
    fleet: list[User], sizes: list[int], most: int, rise: float, price: float
) -> None:
    fleet = own_weights(fleet)
    digests = sorted({digest for user in fleet for digest in user.hull.weights.values()})
    weights = [Weighed(d, (d,), size) for d, size in zip(digests, sizes, strict=False)]
    running = dict(allocate_on_pool(fleet, weights, memory_mib=9, accelerator_class=CLASS, most=most).workers)
    fleet = [replace(user, demand=rise * user.demand) for user in fleet]
    found = allocate_on_pool(
        fleet,
        weights,
        memory_mib=9,
        accelerator_class=CLASS,
        most=most,
        running=running,
        load_price=dict.fromkeys(digests, price),
    )
    loads = loads_needed(running, found.workers)
    assert worth(fleet, dict(found.workers)) - price * len(loads) >= worth(fleet, running) - 1e-3
    assert not (price > 1e3 and loads) or sum(running.values()) == 0


def test_the_nearest_workers_load_what_is_missing() -> None:
    ab, ac, d = (HostSet.of(names, CLASS) for names in ("ab", "ac", "d"))
    assert loads_needed({ab: 2}, {ab: 1, ac: 1}) == ["c"]
    assert loads_needed({ab: 1, d: 1}, {ac: 1, ab: 1}) == ["a", "c"]
    assert loads_needed({}, {ab: 2}) == ["a", "b", "a", "b"]
    assert loads_needed({ab: 3}, {ab: 1}) == []

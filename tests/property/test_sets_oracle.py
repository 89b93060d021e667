"""If memory holds only some variants, the integer program finds what trying every count of every set finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.planning.allocation.hull import HostSet
from cascade_operator.planning.allocation.sets import (
    LEAST_WORKERS_PRICE,
    User,
    Weighed,
    allocate_on_sets,
    best_on_sets,
    maximal_sets,
    work_of,
)
from cascade_operator.planning.allocation.stages import SHED_PRICE
from support.users import CLASS, NAMES, users


def worth(users: Sequence[User], workers: Mapping[HostSet, int]) -> float:
    """What the workers are worth at their best to all cascades together."""
    served = sum(
        user.weight * ((1 - found.shed) * found.gain - SHED_PRICE * found.shed)
        for user, found in zip(users, best_on_sets(users, workers), strict=True)
    )
    return served - LEAST_WORKERS_PRICE * sum(workers.values())


def loads(running: list[HostSet], wanted: list[HostSet], prices: dict[str, float]) -> float:
    """The least that it costs to have running workers, and new ones, host what is wanted."""
    there = [*running, *[None] * len(wanted)]

    def price(before: HostSet | None, after: HostSet) -> float:
        return sum(prices[d] for d in after.weights if before is None or d not in before.weights)

    ways = permutations(there, len(wanted))
    return min((sum(map(price, way, wanted)) for way in ways), default=0.0)


@given(
    users=st.lists(users(), min_size=1, max_size=3),
    most=st.integers(1, 3),
    size=st.integers(1, 2),
    runs=st.lists(st.integers(0, 2), max_size=2),
    price=st.sampled_from([0.0, 0.01, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_the_program_finds_the_best_of_all_counts(
    users: list[User], most: int, size: int, runs: list[int], price: float
) -> None:
    sets = maximal_sets([Weighed(name, (name,), 1) for name in NAMES], size, CLASS)
    running = [sets[number] for number in runs]
    prices = {name: price * (1 + number) for number, name in enumerate(NAMES)}
    found, got = allocate_on_sets(users, sets, least=0, most=most, running=Counter(running), load_price=prices)
    assert sum(found.values()) <= most
    for user, each in zip(users, got, strict=True):
        spent = sum(p.share * sum(work_of(user.hull, p.row).values()) for p in each.mixture)
        assert user.demand * (1 - each.shed) * spent <= user.most * user.utilisation + 1e-4

    def net(workers: Mapping[HostSet, int]) -> float:
        wanted = [hosts for hosts, count in workers.items() for _ in range(count)]
        return worth(users, workers) - loads(running, wanted, prices)

    tried = (counts for counts in product(range(most + 1), repeat=len(sets)) if sum(counts) <= most)
    best = max(net({hosts: count for hosts, count in zip(sets, each, strict=True) if count}) for each in tried)
    assert net(found) == pytest.approx(best, abs=1e-3)


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

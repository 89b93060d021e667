"""Tenants share the workers' time by their weights when there is more work than workers."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.quantiles import nearest_rank
from cascade_router.fair_shares import ACTIVE_S, CONGESTED, FairShares

WORKERS, IMAGE_S, LONGEST_WAIT_S = 4, 1.0, 8.0


def one(_: str) -> int:
    return 1


def test_who_is_alone_has_no_share_and_two_have_half_each() -> None:
    shares = FairShares()
    for _ in range(5):
        shares.enter("flood", 2.0)
    assert not shares.is_over("flood", weight_of=one, now=0.0)
    shares.enter("other", 2.0)
    assert shares.is_over("flood", weight_of=one, now=0.0)
    assert not shares.is_over("other", weight_of=one, now=0.0)
    assert not shares.is_over("third", weight_of=one, now=0.0)


def test_who_had_work_lately_still_counts() -> None:
    shares = FairShares()
    shares.enter("other", 1.0)
    shares.enter("flood", 1.0)
    shares.leave("other", 1.0, now=10.0)
    assert shares.is_over("flood", weight_of=one, now=10.0 + ACTIVE_S)
    assert not shares.is_over("flood", weight_of=one, now=10.1 + ACTIVE_S)


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.floats(0.01, 100), st.integers(1, 9)), min_size=1))
def test_somebody_may_always_have_more(tenants: Mapping[str, tuple[float, int]]) -> None:
    shares = FairShares()
    for name, (work_s, _) in tenants.items():
        shares.enter(name, work_s)
    assert not all(shares.is_over(name, weight_of=lambda each: tenants[each][1], now=0.0) for name in tenants)


def waits(offered: Mapping[str, float], weights: Mapping[str, int], *, fair: bool) -> dict[str, list[float]]:
    """The waits (s) of the admitted requests of each tenant in 200 s, for so many requests a second.

    Four workers make one image after the other, in a second, in the order of arrival; nobody waits for more than eight.
    """
    shares, free, done = FairShares(), [0.0] * WORKERS, list[tuple[float, str]]()
    found: dict[str, list[float]] = defaultdict(list)
    arrivals = sorted((count / rate, name) for name, rate in offered.items() for count in range(int(200 * rate)))
    for now, name in arrivals:
        while done and done[0][0] <= now:
            at, gone = heapq.heappop(done)
            shares.leave(gone, IMAGE_S, now=at)
        wait_s = max(0.0, free[0] - now)
        over = fair and wait_s > CONGESTED * IMAGE_S and shares.is_over(name, weight_of=weights.__getitem__, now=now)
        if over or wait_s > LONGEST_WAIT_S:
            continue
        end = heapq.heappop(free)
        end = max(end, now) + IMAGE_S
        heapq.heappush(free, end)
        heapq.heappush(done, (end, name))
        shares.enter(name, IMAGE_S)
        found[name].append(wait_s)
    return found


def test_a_flood_delays_the_others_by_one_image_at_most_and_leaves_no_worker_idle() -> None:
    offered, weights = {"flood": 20.0, "other": 0.39}, {"flood": 1, "other": 1}
    without, fair = (waits(offered, weights, fair=each) for each in (False, True))
    assert nearest_rank(sorted(without["other"]), 0.99) == pytest.approx(LONGEST_WAIT_S, abs=0.5)
    worst = nearest_rank(sorted(fair["other"])[1:], 0.99)
    assert worst is not None
    assert worst <= (1 + CONGESTED) * IMAGE_S
    assert len(fair["other"]) == int(200 * 0.39)
    assert sum(map(len, fair.values())) >= 0.97 * 200 * WORKERS


def test_two_floods_get_their_weights() -> None:
    fair = waits({"gold": 15.0, "tin": 15.0}, {"gold": 3, "tin": 1}, fair=True)
    served = Counter({name: len(each) for name, each in fair.items()})
    assert served["gold"] / served.total() == pytest.approx(0.75, abs=0.05)

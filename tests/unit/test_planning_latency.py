"""Waits and path latencies, against closed forms and an exact simulation of the queue."""

from __future__ import annotations

import heapq
import math
import random

import pytest

from cascade_operator.planning.allocation.latency import (
    NO_WAIT,
    BatchService,
    Path,
    Queue,
    WaitingTime,
    late_share,
    quantile,
    reserve,
    waiting,
)


def simulated_waits(
    *, load: float, service_s: float, replicas: int, requests: int = 150_000, seed: int = 3
) -> list[float]:
    """Waits of Poisson arrivals at replicas with deterministic service, first come first served, exactly."""
    rng = random.Random(seed)
    free = [0.0] * replicas
    now, waits = 0.0, []
    for _ in range(requests):
        now += rng.expovariate(load)
        start = max(now, heapq.heappop(free))
        heapq.heappush(free, start + service_s)
        waits.append(start - now)
    return sorted(waits[requests // 10 :])


@pytest.mark.parametrize("replicas", [1, 2, 8])
@pytest.mark.parametrize("busy", [0.6, 0.8, 0.9])
def test_waits_agree_with_an_exact_simulation(replicas: int, busy: float) -> None:
    service = BatchService(1, 0.04, 0.04)
    load = busy * replicas / 0.04
    wait = waiting(load=load, service=service, replicas=replicas)
    exact = simulated_waits(load=load, service_s=0.04, replicas=replicas)
    mean = sum(exact) / len(exact)
    assert wait.mean_s == pytest.approx(mean, rel=0.25, abs=0.001)
    p99 = exact[int(0.99 * len(exact))]
    assert wait.beyond(p99) == pytest.approx(0.01, abs=0.01)


@pytest.mark.parametrize("replicas", [1, 2, 8])
@pytest.mark.parametrize("busy", [0.6, 0.9, 1.0, 1.1, 2.0])
def test_as_many_leave_a_queue_in_time_as_in_an_exact_simulation(replicas: int, busy: float) -> None:
    load, patience_s = busy * replicas / 0.04, 0.08
    queue = Queue(load, BatchService(1, 0.04, 0.04), replicas)
    rng, free, now, left = random.Random(3), [0.0] * replicas, 0.0, 0
    for _ in range(100_000):
        now += rng.expovariate(load)
        if free[0] > now + patience_s:
            left += 1
        else:
            heapq.heapreplace(free, max(now, free[0]) + 0.04)
    assert queue.left_after(patience_s) == pytest.approx(left / 100_000, abs=0.02)


def test_nobody_leaves_an_empty_queue_and_all_do_where_nothing_serves_or_no_time_is_left() -> None:
    service = BatchService(1, 0.04, 0.04)
    assert Queue(0.0, service, 0).left_after(0.0) == 0.0
    assert Queue(1.0, service, 0).left_after(1.0) == 1.0
    assert Queue(1.0, service, 1).left_after(0.0) == 1.0
    assert Queue(100.0, service, 2).left_after(1e6) == pytest.approx(0.5)


def test_an_idle_pool_has_no_wait_and_a_full_one_has_no_end() -> None:
    service = BatchService(4, 0.1, 0.11)
    assert waiting(load=0, service=service, replicas=1) == NO_WAIT
    assert waiting(load=1, service=service, replicas=0).beyond(1e9) == 1.0
    assert math.isinf(waiting(load=40, service=service, replicas=1).tail_s)


def test_a_replica_serves_a_batch_at_a_time() -> None:
    assert BatchService(8, 0.2, 0.2).rate == pytest.approx(40)


@pytest.mark.parametrize("replicas", [1, 3, 16])
@pytest.mark.parametrize("late", [0.005, 0.1])
def test_the_reserve_keeps_the_tail_of_the_wait(replicas: int, late: float) -> None:
    service = BatchService(1, 1.3, 1.4)
    spare = reserve(service=service, wait_s=4.0, late=late)
    if spare >= replicas:
        return
    wait = waiting(load=service.rate * (replicas - spare), service=service, replicas=replicas)
    assert wait.beyond(4.0) <= late + 1e-9
    # and is not far more than that takes
    tighter = waiting(load=service.rate * (replicas - spare * 0.6), service=service, replicas=replicas)
    assert tighter.beyond(4.0) > late * 0.9


def test_no_reserve_helps_where_there_is_no_time_to_wait() -> None:
    assert math.isinf(reserve(service=BatchService(1, 1.0, 1.0), wait_s=0.0, late=0.01))


def test_a_path_is_late_when_its_execution_alone_is_too_long() -> None:
    assert Path(1.0, 2.0, (NO_WAIT,)).beyond(1.9) == 1.0
    assert Path(1.0, 2.0, (NO_WAIT,)).beyond(2.1) == 0.0


def test_two_waits_add_up() -> None:
    rng = random.Random(5)
    first, second = WaitingTime(0.6, 0.3), WaitingTime(0.8, 0.5)

    def draw(wait: WaitingTime) -> float:
        return rng.expovariate(1 / wait.tail_s) if rng.random() < wait.probability else 0.0

    sums = [draw(first) + draw(second) for _ in range(60_000)]
    for seconds in (0.2, 0.8, 2.0):
        share = sum(s > seconds for s in sums) / len(sums)
        assert Path(1.0, 0.0, (first, second)).beyond(seconds) == pytest.approx(share, abs=0.01)
    equal = Path(1.0, 0.0, (first, WaitingTime(0.8, 0.3)))
    near = Path(1.0, 0.0, (first, WaitingTime(0.8, 0.3000001)))
    assert equal.beyond(0.5) == pytest.approx(near.beyond(0.5), rel=1e-4)


def test_the_quantile_weighs_the_paths_by_their_shares() -> None:
    paths = [Path(0.9, 1.0, (NO_WAIT,)), Path(0.1, 1.0, (WaitingTime(1.0, 1.0),))]
    expected = 1.0 + math.log(10)
    assert quantile(paths, share=0.99, ceiling_s=20) == pytest.approx(expected, rel=1e-3)
    assert late_share(paths, seconds=expected) == pytest.approx(0.01)


def test_the_quantile_of_an_endless_queue_is_the_ceiling() -> None:
    assert quantile([Path(1.0, 1.0, (WaitingTime(1.0, math.inf),))], share=0.99, ceiling_s=4.0) == 4.0

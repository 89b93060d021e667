"""The engine against closed forms: M/D/1 and M/M/c through workers, dispatch and the whole product."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from cascade_api.settings import PlannerSettings
from cascade_operator.planning.planner import Planner
from cascade_profiler.simulate.events import Events
from cascade_profiler.simulate.production import ProductionSystem
from cascade_profiler.simulate.traces import Trace
from cascade_profiler.simulate.workers import Fleet, Worker, WorkerJob
from cascade_router.queue.dispatch import Dispatcher
from cascade_router.queue.operations import EnqueueTicket, OperationResult, ReleaseCredit, ReplicaSpec, Sync
from support.simulation import make_profile, make_scenario, poisson_times

ROUTER = "r"


class CentralQueue:
    """c workers behind one pool of the product's dispatcher, one credit each."""

    def __init__(self, *, workers: int, service: random.Random, mean_s: float) -> None:
        self.events = Events()
        self.waits: list[float] = []
        self._service = service
        self._mean_s = mean_s
        fleet = [Worker(f"w{i}", "gpu") for i in range(workers)]
        self._fleet = Fleet(
            self.events, fleet, batch_s=self._batch_s, take=lambda w: [w.waiting.popleft()], done=self._done,
            loaded=lambda w: None,
        )  # fmt: skip
        self._arrived: dict[str, float] = {}
        self._dispatcher = Dispatcher()
        specs = tuple(ReplicaSpec(w.id, f"{w.id}:1", 1, mean_s) for w in fleet)
        self._dispatcher.run(Sync(ROUTER, "p", 1, "least-wait", specs), now=0)
        for worker in fleet:
            self._fleet.load(worker, "v", 0.0)

    def arrive(self, number: int) -> None:
        ticket = f"{number:08d}@{ROUTER}"
        self._arrived[ticket] = self.events.now
        self._granted(self._dispatcher.run(EnqueueTicket(ROUTER, "p", ticket, 1, 10**9, 10**6), now=self._now_ms))

    @property
    def _now_ms(self) -> int:
        return int(self.events.now * 1000)

    def _granted(self, outcome: OperationResult) -> None:
        for grant in outcome.grants:
            self.waits.append(self.events.now - self._arrived.pop(grant.ticket))
            job = WorkerJob((grant.ticket, grant.replica_id), judged=False)
            self._fleet.submit(self._fleet.workers[grant.replica_id], job)

    def _batch_s(self, variant: str, accelerator_class: str, batch: int, judged: bool) -> float:
        return self._service.expovariate(1 / self._mean_s)

    def _done(self, worker: Worker, jobs: list[WorkerJob], seconds: float) -> None:
        ((ticket, replica_id),) = (job.request for job in jobs)
        self._granted(
            self._dispatcher.run(ReleaseCredit(ROUTER, "p", ticket, replica_id, seconds, 1), now=self._now_ms)
        )


def erlang_wait_s(*, rate: float, mean_s: float, servers: int) -> float:
    """Mean wait of M/M/c (Erlang C)."""
    load = rate * mean_s
    busy = load / servers
    tail = load**servers / math.factorial(servers) / (1 - busy)
    probability = tail / (sum(load**k / math.factorial(k) for k in range(servers)) + tail)
    return probability * mean_s / (servers - load)


def exact_waits_s(arrivals: Sequence[float], services: Sequence[float], *, servers: int) -> list[float]:
    """Waits of a first-come first-served queue (Kiefer and Wolfowitz's recursion)."""
    free_at = [0.0] * servers
    waits = []
    for at, service in zip(arrivals, services, strict=True):
        start = max(at, heapq.heappop(free_at))
        heapq.heappush(free_at, start + service)
        waits.append(start - at)
    return waits


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.5), (4, 0.8)])
def test_a_central_queue_waits_like_m_m_c(servers: int, busy: float) -> None:
    count, means = 5000, []
    for seed in range(2):
        queue = CentralQueue(workers=servers, service=random.Random(seed), mean_s=1.0)
        arrivals = poisson_times(rate=busy * servers, count=count, seed=seed).tolist()
        for number, at in enumerate(arrivals):
            queue.events.at(at, queue.arrive, number)
        queue.events.run()
        same = random.Random(seed)
        exact = exact_waits_s(arrivals, [same.expovariate(1.0) for _ in arrivals], servers=servers)
        assert queue.waits == pytest.approx(exact, abs=1e-6)
        means.append(float(np.mean(queue.waits)))
    assert np.mean(means) == pytest.approx(erlang_wait_s(rate=busy * servers, mean_s=1.0, servers=servers), rel=0.15)


def test_the_whole_product_on_one_worker_waits_like_m_d_1() -> None:
    service_s, busy = 0.1, 0.6
    times = poisson_times(rate=busy / service_s, count=5000, seed=3)
    trace = Trace("poisson", times, np.zeros(len(times), dtype=np.int64))
    scenario = make_scenario(trace, profile=make_profile(light_s=service_s), workers=1)
    # Few decisions: with one worker there is nothing to decide.
    settings = PlannerSettings(tick_min_s=60, tick_max_s=60)
    system = ProductionSystem(scenario, policy="all-light", planner=Planner(settings), scorer="coin-flip")
    outcomes = system.run(lambda part: None).outcomes
    assert not outcomes.lost.any()
    waits = outcomes.latency_s - service_s
    exact = exact_waits_s(times.tolist(), [service_s] * len(times), servers=1)
    # The dispatcher orders by deadline in whole milliseconds, so that neighbours may change places.
    assert sorted(waits) == pytest.approx(sorted(exact), abs=1e-3)
    assert float(np.mean(waits)) == pytest.approx(busy * service_s / (2 * (1 - busy)), rel=0.15)

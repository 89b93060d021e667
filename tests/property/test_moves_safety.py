"""Whatever workers host and whatever they should, every step is safe, and the steps lead there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.planning.allocation import HostSet
from cascade_operator.planning.memory import Leaving
from cascade_operator.planning.moves import Moves, next_moves
from cascade_operator.planning.observed import ready_hosts
from cascade_operator.snapshot import (
    DrainWorker,
    Host,
    HostState,
    Load,
    PoolRef,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)

POOL = PoolRef("default", "cpu", "shapes")
WEIGHTS = "abcd"
GRACE_S = 3.0
ROOM = st.integers(1, 3)


def sets_of(room: int) -> list[HostSet]:
    """All that a worker with room for so many weights may host."""
    return [HostSet.of(each, "cpu") for count in range(1, room + 1) for each in combinations(WEIGHTS, count)]


@dataclass
class Fleet:
    """Workers that do what they are told, and rows that need some weights until they can do without them."""

    room: int
    accelerators: int
    workers: dict[str, Worker]
    needed: set[str]
    busy: int = 0
    """Requests in hand for weights that are left, which end after a tick."""
    leaving: tuple[Leaving, ...] = ()
    now: float = 100.0
    started: int = 0
    cut: list[str] = field(default_factory=list)
    """Weights that were unloaded while routers still sent requests for them."""
    lost: list[str] = field(default_factory=list)
    """Weights that lost their last host although rows needed them."""
    overfull: list[HostSet] = field(default_factory=list)

    @property
    def served(self) -> set[str]:
        return {digest for each in ready_hosts(self.workers.values(), self.leaving) for digest in each.weights}

    @property
    def hosted(self) -> Counter[HostSet]:
        """Workers by all that is loaded or loading there."""
        sets = (HostSet.of((h.weights for h in w.hosts), "cpu") for w in self.workers.values())
        return Counter(each for each in sets if each.weights)

    def moves(self, target: Counter[HostSet], *, reverse: bool = False) -> Moves:
        since = {(each.worker, each.weights): each.since_s for each in self.leaving}

        def in_flight(worker: Worker, weights: Collection[str]) -> int:
            fresh = any(since.get((worker.id, digest), self.now) > self.now - 2 for digest in weights)
            return self.busy if fresh else 0

        workers = list(self.workers.values())
        return next_moves(
            workers=workers[::-1] if reverse else workers,
            target=target,
            leaving=self.leaving,
            free={"cpu": self.accelerators - len(workers)},
            left={(digest, "cpu") for digest in WEIGHTS if digest not in self.needed},
            pools={"cpu": POOL},
            order=list(WEIGHTS),
            fits=lambda hosts: len(hosts.weights) <= self.room,
            in_flight=in_flight,
            now=self.now,
            grace_s=GRACE_S,
            at_once=2,
        )

    def tick(self, target: Counter[HostSet]) -> Moves:
        found = self.moves(target)
        before = self.served
        given = {(each.worker, each.weights) for each in self.leaving}
        drained = {action.worker for action in found.actions if isinstance(action, DrainWorker)}
        for name in drained:
            self.workers[name] = replace(self.workers[name], state=WorkerState.DRAINING, since_s=self.now)
        self.leaving = found.leaving
        # What rows need has a worker still, once routers follow the plan of this tick.
        self.lost += sorted((before - self.served) & self.needed)
        for action in found.actions:
            self._obey(action, given)
        self.overfull += [each for each in self.hosted if len(each.weights) > self.room]
        if found.vacate is not None:
            self.needed.discard(found.vacate[0])
        self._pass()
        return found

    def _obey(self, action: object, given: set[tuple[str, str]]) -> None:
        match action:
            case StartWorker(_, _, weights):
                self.started += 1
                name = f"new-{self.started}"
                hosts = tuple(Host(digest, HostState.LOADING, self.now) for digest in weights)
                self.workers[name] = Worker(name, POOL, "cpu", "127.0.0.1:1", WorkerState.STARTING, self.now, hosts)
            case Load(name, weights):
                worker = self.workers[name]
                if weights not in worker.hosting(*HostState):
                    hosts = (*worker.hosts, Host(weights, HostState.LOADING, self.now))
                    worker = replace(worker, hosts=hosts)
                self.workers[name] = replace(worker, state=WorkerState.READY)
            case Unload(name, weights):
                worker = self.workers[name]
                if worker.state is WorkerState.READY and (name, weights) not in given:
                    self.cut.append(weights)
                self.workers[name] = replace(worker, hosts=tuple(h for h in worker.hosts if h.weights != weights))
            case StopWorker(name):
                del self.workers[name]

    def _pass(self) -> None:
        """A second, in which everything is loaded."""
        self.now += 1
        for name, worker in self.workers.items():
            hosts = tuple(replace(host, state=HostState.READY) for host in worker.hosts)
            state = WorkerState.READY if worker.state is WorkerState.STARTING else worker.state
            self.workers[name] = replace(worker, hosts=hosts, state=state)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Fleet, Counter[HostSet]]:
    room = draw(ROOM)
    sets = st.sampled_from(sets_of(room))
    present = draw(st.lists(sets, min_size=0, max_size=5))
    wanted = draw(st.lists(sets, min_size=0, max_size=5))
    workers = {
        f"cpu-{number}": Worker(
            f"cpu-{number}",
            POOL,
            "cpu",
            "127.0.0.1:1",
            WorkerState.READY,
            0.0,
            tuple(Host(digest, HostState.READY, 0.0) for digest in each.weights),
        )
        for number, each in enumerate(present)
    }
    there = {digest for each in present for digest in each.weights}
    needed = set(draw(st.lists(st.sampled_from(sorted(there)), unique=True))) if there else set()
    accelerators = max(len(present), len(wanted)) + draw(st.integers(0, 1))
    return Fleet(room, accelerators, workers, needed, busy=draw(st.integers(0, 1))), Counter(wanted)


@given(case=cases())
@settings(max_examples=300, deadline=None)
def test_every_step_is_safe_and_the_steps_lead_to_the_target(case: tuple[Fleet, Counter[HostSet]]) -> None:
    fleet, target = case
    for _ in range(60):
        assert fleet.moves(target) == fleet.moves(target, reverse=True)
        found = fleet.tick(target)
        assert len(fleet.workers) <= fleet.accelerators
        if not found.moving:
            break
    assert fleet.hosted == target
    assert not fleet.leaving
    assert (fleet.cut, fleet.lost, fleet.overfull) == ([], [], [])


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_where_everything_is_as_wanted_nothing_is_done(case: tuple[Fleet, Counter[HostSet]]) -> None:
    fleet, _ = case
    assert fleet.moves(fleet.hosted) == Moves()

"""What the planner remembers between ticks.

The operator stores it in Redis as JSON, so that a restarted operator goes on where the last one stopped. If it is lost
or cannot be read, enough of it is rebuilt from the last plan. If it holds impossible values, for example a time in the
future (`CascadeMemory.is_credible`), it is not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan, is_credible
from cascade_api.reasons import Reason

from .allocation import HostSet, PoolKey, PoolSize
from .arrivals import ArrivalRate
from .floors import MOST_RAISED, FloorAccount

AHEAD_S = 60.0
"""Seconds by which the clock of an earlier operator may have been ahead of ours."""
HIGHEST_RATE = 1e9
MOST_REPLICAS = 100_000


@dataclass(frozen=True)
class TargetPool:
    """One pool of the target: how many workers serve a variant, and in which batches."""

    variant: str
    accelerator_class: str
    replicas: int
    batch: int


@dataclass(frozen=True)
class TargetHosts:
    """How many workers should host these weights together, by digest."""

    weights: tuple[str, ...]
    accelerator_class: str
    workers: int


@dataclass(frozen=True)
class Leaving:
    """Weights that a worker shall no longer host: since ``since_s`` (Unix seconds) it gets no requests for them."""

    worker: str
    weights: str
    since_s: float


@dataclass(frozen=True)
class Slowdown:
    """A pool that is ``factor`` times slower than its profile says; ``seen_at_s`` is when that was last measured."""

    variant: str
    accelerator_class: str
    factor: float
    seen_at_s: float

    @property
    def pool(self) -> PoolKey:
        return self.variant, self.accelerator_class


@dataclass(frozen=True)
class FloorTarget:
    """The floor of the quality, and the quality that is planned, in metric units; and what all-heavy would take."""

    no_worse_than: float
    expected: float
    held: bool
    all_heavy_workers: int | None = None
    all_heavy_cost_per_hour: float | None = None


@dataclass(frozen=True)
class Target:
    """The workers that a cascade should have, and the circumstances in which this was decided.

    ``hosts`` says what they host, and ``pools`` which variants they serve. ``verdict`` says how good the allocation is,
    and ``binding`` what keeps it from being better. The circumstances are ``demand`` (requests per second), the
    fingerprints of spec and profile (``spec_print``, ``profile_print``), the accelerators by class (``inventory``), and
    the slowdowns (``corrections``: variant, class, factor). Where one of them changes, pools are decided again. On a
    WorkerPool, ``hosts`` are all of its workers, the same for all cascades in mode auto, and ``pool_print`` is the
    fingerprint of the pool and of the cascades that were planned for on it. ``floor`` says how the quality floor is
    held, if there is one.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    pools: tuple[TargetPool, ...] = ()
    hosts: tuple[TargetHosts, ...] = ()
    verdict: Reason = Reason.OPTIMAL
    binding: tuple[str, ...] = ()
    cost_per_hour: float = 0.0
    decided_at_s: float = 0.0
    demand: float = 0.0
    spec_print: str = ""
    profile_print: str = ""
    pool_print: str = ""
    inventory: Mapping[str, int] = field(default_factory=dict)
    corrections: tuple[tuple[str, str, float], ...] = ()
    floor: FloorTarget | None = None

    @property
    def sizes(self) -> dict[PoolKey, PoolSize]:
        """Replicas and batch size by pool."""
        return {(p.variant, p.accelerator_class): PoolSize(p.replicas, p.batch) for p in self.pools}

    @property
    def workers(self) -> dict[HostSet, int]:
        """Workers by what they host."""
        return {HostSet(each.weights, each.accelerator_class): each.workers for each in self.hosts}


@dataclass(frozen=True)
class CascadeMemory:
    """One cascade between ticks.

    ``target`` is the last pool decision (None: none was made), and ``reason`` says why it or the plan last changed.
    ``generation`` is the number of the last published plan, and ``published_at_s`` when it was published.
    ``surged_at_s`` is when demand last surged. ``parked`` means that everything was stopped since nobody asked, and
    that nothing serves again yet; ``asked_at_s`` is when somebody last asked. ``slowdowns`` correct the profile by what
    routers measured, and ``mix`` is the share of requests by size. ``leaving`` are the weights whose requests are to
    end before they are unloaded. ``floor`` says how the images that were made compare with the quality floor.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    target: Target | None = None
    reason: Reason = Reason.INITIAL_PLAN
    arrivals: ArrivalRate | None = None
    generation: int = 0
    published_at_s: float = 0.0
    store_was_away: bool = False
    surged_at_s: float = 0.0
    parked: bool = False
    asked_at_s: float = 0.0
    slowdowns: tuple[Slowdown, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    floor: FloorAccount = field(default_factory=FloorAccount)
    mix: Mapping[str, float] = field(default_factory=dict)

    def is_credible(self, *, now: float) -> bool:
        """Whether an operator can have written this: no value is negative or absurdly large, no time in the future."""
        target, arrivals = self.target or Target(), self.arrivals or ArrivalRate(0.0, 0.0)
        seen = [slowdown.seen_at_s for slowdown in self.slowdowns] + [each.since_s for each in self.leaving]
        times = (target.decided_at_s, self.published_at_s, self.surged_at_s, self.asked_at_s, *seen)
        rates = (target.demand, arrivals.rate, arrivals.least, abs(arrivals.trend))
        return (
            is_credible(self.generation, now_s=now)
            and all(0 <= time <= now + AHEAD_S for time in (*times, arrivals.at_s))
            and all(0 <= rate <= HIGHEST_RATE for rate in rates)
            and all(1 <= slowdown.factor <= HIGHEST_RATE for slowdown in self.slowdowns)
            and abs(self.floor.owed) <= HIGHEST_RATE
            and abs(self.floor.raised) <= MOST_RAISED
            and all(0 <= share <= 1 for share in self.mix.values())
            and 0 <= target.cost_per_hour <= HIGHEST_RATE
            and all(0 <= pool.replicas <= MOST_REPLICAS and pool.batch >= 1 for pool in target.pools)
            and all(0 <= each.workers <= MOST_REPLICAS for each in target.hosts)
        )


@dataclass(frozen=True)
class Memory:
    """Every cascade's memory, by ``namespace/name``."""

    cascades: Mapping[str, CascadeMemory] = field(default_factory=dict)

    def of(self, ref: CascadeRef, plan: Plan | None) -> CascadeMemory:
        """The memory of a cascade; if there is none, what can be rebuilt from its last ``plan``."""
        kept = self.cascades.get(str(ref))
        if kept is None:
            kept = rebuilt(plan) if plan is not None else CascadeMemory()
        if plan is not None and plan.generation > kept.generation:
            kept = replace(kept, generation=plan.generation)
        return kept

    def to_json(self) -> str:
        """The memory as JSON text."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Memory:
        """Inverse of `to_json`; text that cannot be read gives an empty memory, which is then rebuilt from plans."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError:
            return cls()


_ADAPTER: TypeAdapter[Memory] = TypeAdapter(Memory)


def target_pools(sizes: Mapping[PoolKey, PoolSize]) -> tuple[TargetPool, ...]:
    """Pools in the form that a target keeps, sorted by name."""
    return tuple(TargetPool(key[0], key[1], sizes[key].replicas, sizes[key].batch) for key in sorted(sizes))


def target_hosts(workers: Mapping[HostSet, int]) -> tuple[TargetHosts, ...]:
    """Workers by what they host in the form that a target keeps, sorted."""
    return tuple(TargetHosts(each.weights, each.accelerator_class, workers[each]) for each in sorted(workers))


def rebuilt(plan: Plan) -> CascadeMemory:
    """Memory from a plan alone: its pools become the target, and its demand the demand that this was decided for."""
    sizes = {(p.variant, p.accelerator_class): PoolSize(len(p.ready), p.batch) for p in plan.pools if p.ready}
    served = (
        HostSet.of((plan.variants[name].weights for name, count in w.credits.items() if count), w.accelerator_class)
        for w in plan.workers
        if w.state == "ready"
    )
    hosts = Counter(each for each in served if each.weights)
    return CascadeMemory(
        target=Target(target_pools(sizes), target_hosts(hosts), demand=plan.expected.demand),
        reason=plan.reason,
        generation=plan.generation,
        parked=plan.parked,
    )

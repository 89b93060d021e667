"""What the controller remembers between ticks, as JSON; all of it can be rebuilt from the last plan when lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan, is_credible
from cascade_api.reasons import Reason

from .demand import Forecast
from .problem import PoolKey, PoolSize

AHEAD_S = 60.0
"""How far the clock of an earlier operator may have been ahead."""
HIGHEST_RATE = 1e9
MOST_REPLICAS = 100_000


@dataclass(frozen=True)
class TargetPool:
    """One pool of the target."""

    variant: str
    accelerator_class: str
    replicas: int
    batch: int


@dataclass(frozen=True)
class CascadeMemory:
    """One cascade between ticks.

    ``target`` is what the last pool decision wants (None: none was made), with its ``reason``, ``verdict`` and
    ``binding`` words, when it was made and for which demand. ``distrust`` is how many times the demand the pools were
    sized for when a queue last grew that the load did not explain: the profile promises too much. ``generation`` is
    the last published. ``surged_at_s`` is when demand last surged. ``parked``: nothing ran since nobody asked, and
    nothing serves yet; ``asked_at_s`` is when somebody last did.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    target: tuple[TargetPool, ...] | None = None
    reason: Reason = Reason.INITIAL_PLAN
    verdict: Reason = Reason.OPTIMAL
    binding: tuple[str, ...] = ()
    cost_per_hour: float = 0.0
    decided_at_s: float = 0.0
    decided_demand: float | None = None
    distrust: float = 1.0
    distrust_at_s: float = 0.0
    forecast: Forecast | None = None
    spec_print: str = ""
    profile_print: str = ""
    ceilings: Mapping[str, int] = field(default_factory=dict)
    generation: int = 0
    published_at_s: float = 0.0
    store_was_away: bool = False
    surged_at_s: float = 0.0
    parked: bool = False
    asked_at_s: float = 0.0

    @property
    def pools(self) -> dict[PoolKey, PoolSize]:
        """The target by pool."""
        return {(p.variant, p.accelerator_class): PoolSize(p.replicas, p.batch) for p in self.target or ()}

    def is_credible(self, *, now: float) -> bool:
        """Whether an operator can have remembered this by now: nothing is negative, boundless or still to come."""
        forecast = self.forecast or Forecast(0.0, 0.0)
        times = (self.decided_at_s, self.distrust_at_s, self.published_at_s, self.surged_at_s, self.asked_at_s)
        rates = (self.decided_demand or 0.0, forecast.rate, forecast.least, forecast.peak, abs(forecast.trend))
        return (
            is_credible(self.generation, now_s=now)
            and all(0 <= time <= now + AHEAD_S for time in (*times, forecast.at_s))
            and all(0 <= rate <= HIGHEST_RATE for rate in rates)
            and 1 <= self.distrust <= HIGHEST_RATE
            and 0 <= self.cost_per_hour <= HIGHEST_RATE
            and all(0 <= pool.replicas <= MOST_REPLICAS and pool.batch >= 1 for pool in self.target or ())
        )


@dataclass(frozen=True)
class Memory:
    """Every cascade's memory, by ``namespace/name``."""

    cascades: Mapping[str, CascadeMemory] = field(default_factory=dict)

    def of(self, ref: CascadeRef, plan: Plan | None) -> CascadeMemory:
        """What is remembered of a cascade; without any memory, what its last plan tells."""
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
        """Inverse of `to_json`; a memory that cannot be read is an empty one, since it can be rebuilt."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError:
            return cls()


_ADAPTER: TypeAdapter[Memory] = TypeAdapter(Memory)


def target_of(pools: Mapping[PoolKey, PoolSize]) -> tuple[TargetPool, ...]:
    """Pools as the memory keeps them, in the order of their names."""
    return tuple(TargetPool(key[0], key[1], pools[key].replicas, pools[key].batch) for key in sorted(pools))


def rebuilt(plan: Plan) -> CascadeMemory:
    """Memory from a plan alone: its pools are the target, its demand the last forecast."""
    return CascadeMemory(
        target=tuple(TargetPool(p.variant, p.accelerator_class, len(p.ready), p.batch) for p in plan.pools if p.ready),
        reason=plan.reason,
        decided_demand=plan.expected.demand,
        generation=plan.generation,
        parked=plan.parked,
    )

"""One cascade while a decision is made: what was found out about it so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Plan
from cascade_api.reasons import Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings

from ..snapshot import CascadeView, ReplicaState, Snapshot
from .catalogue import Catalogue, NotPlannable, Prepared
from .demand import Forecast, Forecaster, bounded_window_s, clearing_rate
from .memory import CascadeMemory, Memory
from .moves import Moves, pool_of
from .problem import PoolKey

SLOW_SIGMAS = 1.5
"""Poisson standard deviations of the forecast that pools are made for beyond it where they cannot soon be changed."""


@dataclass(eq=False)
class Situation:
    """A cascade, and what this tick found out about it.

    ``refused`` and ``held`` are (reason, message) where it cannot be planned, or must be left as it is. ``rate``
    is the demand to share out until the next tick, ``pool_rate`` that by the time new pools serve, ``peak_rate`` the
    highest of these and of the last while, ``idle`` that there was none for so long that nothing shall run. ``due`` is
    why pools were decided in this tick, ``news`` why their target changed.
    """

    view: CascadeView
    memory: CascadeMemory
    prepared: Prepared | None = None
    refused: tuple[Reason, str] | None = None
    held: tuple[Reason, str] | None = None
    rate: float = 0.0
    pool_rate: float = 0.0
    peak_rate: float = 0.0
    idle: bool = False
    due: Reason | None = None
    news: Reason | None = None
    moves: Moves = field(default_factory=lambda: Moves((), None, moving=False))
    published: Plan | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def ref(self) -> CascadeRef:
        return self.view.cascade.ref

    @property
    def objective_s(self) -> float:
        return self.view.cascade.spec.objective.latency_s

    @property
    def degrades(self) -> bool:
        """Whether a light image stands in for a heavy one that comes too late."""
        return self.view.cascade.spec.policy.overload == "degrade"

    @property
    def known(self) -> Prepared:
        """What was prepared; raises LookupError for a cascade that cannot be planned."""
        if self.prepared is None:
            raise LookupError(f"{self.ref} was not prepared")
        return self.prepared

    @property
    def decides(self) -> bool:
        """Whether pools are to be decided, acted upon or not."""
        return self.prepared is not None and self.held is None and self.view.cascade.spec.policy.mode != "paused"

    @property
    def moves_slowly(self) -> bool:
        """Whether load may well be another before a replica serves another variant."""
        return self.known.switch_s > self.objective_s / 2

    @property
    def acts(self) -> bool:
        """Whether decisions are acted upon."""
        return self.decides and self.view.cascade.spec.policy.mode == "auto"


def look(
    view: CascadeView,
    snapshot: Snapshot,
    memory: Memory,
    now: float,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
    catalogue: Catalogue,
    forecaster: Forecaster,
) -> Situation:
    """What is known of a cascade before anything is decided."""
    it = Situation(view, memory.of(view.cascade.ref, view.plan))
    if not snapshot.store_available:
        it.memory = replace(it.memory, store_was_away=True)
        it.held = Reason.STORE_AWAY, "Redis cannot be reached: the last plan is held"
    if snapshot.inventory is None:
        it.held = Reason.INVENTORY_UNKNOWN, "the accelerators of the cluster are not known: the last plan is held"
    if view.profile is None:
        name = view.cascade.spec.profile_ref.name
        it.refused = Reason.PROFILE_MISSING, f"spec.profileRef.name: there is no CascadeProfile {name!r}: apply it"
        return it
    try:
        it.prepared = catalogue.prepare(view.cascade, view.profile, settings=settings, classes=classes)
    except NotPlannable as error:
        it.refused = error.reason, str(error)
        return it
    _forecast(it, snapshot, now, settings, forecaster)
    return it


def _forecast(it: Situation, snapshot: Snapshot, now: float, settings: PlannerSettings, forecaster: Forecaster) -> None:
    """The rate to plan for; without demand the last known one, at first one request per objective."""
    least = 1 / it.objective_s
    last = it.memory.forecast
    if it.view.demand is not None and snapshot.store_available:
        window_s = settings.forecast_window * it.objective_s
        forecaster = it.known.policy.forecaster or forecaster
        forecast = forecaster(it.view.demand, now=now, window_s=window_s, last=last)
    elif last is not None:
        forecast = Forecast(last.rate, last.at_s)
    else:
        forecast = Forecast((it.memory.decided_demand or least) / settings.forecast_margin, now)
    surged_at_s = now if forecast.surged else it.memory.surged_at_s
    it.memory = replace(it.memory, forecast=forecast, surged_at_s=surged_at_s)
    tick_s = settings.tick_s(it.objective_s)
    it.rate = max(forecast.after(tick_s) * settings.forecast_margin, least)
    # New pools serve once they have started, and until pools are decided again.
    later_s = it.known.switch_s + settings.pool_ticks * tick_s / 2
    if not it.moves_slowly:
        it.pool_rate = max(forecast.after(later_s) * settings.forecast_margin, least)
    else:
        # By then chance may bring more, and what the replicas have in hand comes first.
        rate = max(forecast.after(later_s + it.known.image_s) * settings.forecast_margin, least)
        window_s = bounded_window_s(settings.forecast_window * it.objective_s)
        it.pool_rate = rate + SLOW_SIGMAS * math.sqrt(rate / window_s)
    it.peak_rate = max(forecast.peak, it.rate, it.pool_rate)
    it.figures["demand"] = round(it.rate, 3)


def batches(it: Situation) -> dict[PoolKey, int]:
    """Batch size by pool: the target's, else the plan's in force."""
    in_force = {(p.variant, p.accelerator_class): p.batch for p in it.view.plan.pools} if it.view.plan else {}
    return in_force | {key: size.batch for key, size in it.memory.pools.items()}


def backlog(it: Situation) -> dict[str, float]:
    """Requests per second by variant that clear what waits beyond a round of its replicas.

    What waits for a heavy variant only is no backlog where it can be degraded: it is how such a pool is kept busy.
    """
    rates: dict[str, float] = {}
    batch_of = batches(it)
    for key, replicas in ready_replicas(it).items():
        if it.degrades and key[0] not in firm_variants(it):
            continue
        depth = (it.view.queue_depths or {}).get(pool_name(variant=key[0], accelerator_class=key[1]), 0)
        excess = depth - replicas * batch_of.get(key, 1)
        if excess > 0:
            rates[key[0]] = rates.get(key[0], 0.0) + clearing_rate(excess, objective_s=it.objective_s)
    return rates


def firm_variants(it: Situation) -> set[str]:
    """Variants whose images nothing stands in for by the plan in force: light ones, and where none may, direct ones."""
    rows = it.view.plan.rows if it.view.plan is not None else []
    light = {row.light for row in rows if row.direct < 1}
    return light if it.degrades and light else light | {row.heavy for row in rows if row.direct > 0}


def ready_replicas(it: Situation) -> Counter[PoolKey]:
    """Ready replicas by pool."""
    return Counter(pool_of(r) for r in it.view.replicas if r.state is ReplicaState.READY)

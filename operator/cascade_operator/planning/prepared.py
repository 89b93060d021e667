"""What follows from a cascade's spec and profile alone: it is computed once, and kept until either changes.

`prepare` checks that the profile fits the spec, multiplies the times of pools that are slower than the profile says
(`slowdowns`), lets the policy choose its rows, works out which batch sizes meet the objective, and puts a price on
moves and on accelerator time. Prices are fractions of the metric's span, from the worst row to the best:

    price of a start = thrift · max(switch price in metric units / TUNED_SPAN, noise)

With a profile of one's own, noise is QUALITY_NOISE; the tables of the published systems are taken as exact. A quality
floor says what is good enough, so accelerator time then has no price, and a start only a small one.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from cascade_api.cascade import CascadeSpec, DiffusionCascade
from cascade_api.chains import Variants
from cascade_api.names import CascadeRef
from cascade_api.profile import CascadeProfile, Execution, ProfileSpec, profile_for, profile_problems
from cascade_api.quantities import money
from cascade_api.reasons import Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_api.workers import Hosting, Workers

from .allocation import (
    NO_TIERS,
    CascadeProblem,
    Frontier,
    HostSet,
    Hull,
    Placement,
    PoolKey,
    PoolSize,
    ProfileTimings,
    QualityGrid,
    ServiceLevel,
    Sharing,
    Stages,
    TierShares,
    Weighed,
    WorkerBounds,
    hull_of,
    measured,
    priced,
    served_by,
    stages_of,
    useful_rows,
)
from .policies import PlanningPolicy, policy
from .rooms import TooLarge, rooms_of, weights_of, with_one_long_variant
from .sizes import Mix, mixed, seconds_by_size

TUNED_SPAN = 10.0
"""Span, in metric units, of the quality tables that `PlannerSettings.switch_price` was tuned on (FID 20 to 30)."""
QUALITY_NOISE = 0.02
"""Part of the metric's span by which measured qualities differ from noise alone; a start must gain at least this."""
ACCELERATOR_TIME_PRICE = 0.06
"""Part of the metric's span that all-heavy must gain to be worth its accelerator time; less time must gain less, in
proportion. A smaller gain cannot be distinguished from noise."""

FLOOR_START_PRICE: Final = 2e-4
"""Price of a start with a quality floor: more than that of an accelerator, and too little to miss the floor for."""
OUT_OF_REACH: Final = 2.0
"""A normalised quality that no row has."""

NO_WORKER_POOLS: Final = "there is no such WorkerPool that the cascade fits: add it, or name another"
"""Why a cascade on a WorkerPool is refused where nobody says what that is."""

NONE_SLOWER: Final[Mapping[PoolKey, float]] = {}
"""Slowdowns where every pool is as its profile says."""
NO_MIX: Final[Mix] = {}
"""The mix of sizes where nothing is known of it."""
SPARE_SIZED = 16
"""With more entries than this beyond two for each cascade, the cache of sized chains is emptied."""


class NotPlannable(Exception):
    """A cascade that cannot be planned; its status shows ``reason`` and the message, which names the field."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Prepared:
    """A cascade that is ready to be planned.

    ``problem`` lacks only what changes with time: the demand and the running replicas. ``rooms`` are the largest sets
    of weights that a worker may host, and ``memory_mib`` is the memory of an accelerator by class (0: not known).
    ``corrections`` lists the pools whose times were multiplied, as (variant, class, factor). ``provision_s`` says for
    elastic classes how many seconds a new Node takes. Times are those of the mix of sizes that clients ask for
    (`sizes`), except ``default_timings``, which are those of the default size; ``sized_s`` has the median seconds of a
    batch by pool, size and number of images. ``floor`` is the wanted quality floor, normalised (None: there is none),
    and ``grids`` have the quality at any shares, by chain, where there is a floor.
    """

    spec: CascadeSpec
    profile: ProfileSpec
    policy: PlanningPolicy
    timings: ProfileTimings
    problem: CascadeProblem
    rooms: tuple[HostSet, ...]
    memory_mib: Mapping[str, int]
    spec_print: str
    profile_print: str
    corrections: tuple[tuple[str, str, float], ...]
    default_timings: ProfileTimings
    sized_s: Mapping[PoolKey, Mapping[str, Mapping[int, float]]]
    provision_s: Mapping[str, float] = field(default_factory=dict)
    floor: float | None = None
    grids: Mapping[Variants, QualityGrid] = field(default_factory=dict)

    def seconds(self, variant: str, accelerator_class: str) -> dict[str, dict[int, float]]:
        """Median seconds of a batch by size and number of images, of the batches that may be used; empty if none."""
        batches = self.timings.execution_s(variant, accelerator_class)
        by_size = self.sized_s.get((variant, accelerator_class), {}) if batches else {}
        return {size: {n: seconds[n] for n in batches} for size, seconds in by_size.items()}

    @property
    def keys(self) -> list[PoolKey]:
        """Every pool that the cascade may have."""
        return [(name, on) for name, classes in self.problem.classes.items() for on in classes]

    @property
    def hull(self) -> Hull | None:
        """What accelerator time buys, where workers host all variants; else None."""
        return self.problem.hull

    @cached_property
    def weights(self) -> Mapping[str, str]:
        """The digest of each variant's weights."""
        return {variant.name: variant.weights.digest for variant in self.spec.variants}

    @cached_property
    def variants_with(self) -> Mapping[str, tuple[str, ...]]:
        """The variants of weights, by digest, in the order of the spec."""
        found: dict[str, tuple[str, ...]] = {}
        for name, digest in self.weights.items():
            found[digest] = (*found.get(digest, ()), name)
        return found

    @property
    def load_s(self) -> float:
        """Seconds that loading the weights of a variant takes at most."""
        return max((self.timings.load_s(*key) for key in self.keys), default=0.0)

    @property
    def node_s(self) -> float:
        """Seconds that a new Node takes at most."""
        return max((self.provision_s.get(accelerator_class, 0.0) for _, accelerator_class in self.keys), default=0.0)

    def corrected(self, *, floor_raised: float, tiers: TierShares) -> Prepared:
        """The same for what is seen now: the shares of the requests that ask for a tier, and how much is asked for
        above the wanted floor (below it where that is negative).
        """
        problem, hull = self.problem, self.hull
        if tiers != NO_TIERS:
            hull = None if hull is None else hull.with_tiers(tiers)
            problem = replace(problem, tiers=tiers, hull=hull)
        if self.floor is not None and floor_raised:
            asked = self.floor + floor_raised
            hull = None if hull is None else replace(hull, floor=asked)
            problem = replace(problem, floor=asked, floor_held_from=min(self.floor, asked), hull=hull)
        return self if problem is self.problem else replace(self, problem=problem)

    def start_s(self, accelerator_class: str) -> float:
        """Seconds until a worker of a class that is started now serves, with its Node where that has to come."""
        starts = (s.cold_seconds for s in self.profile.startup if s.accelerator_class == accelerator_class)
        return max(starts, default=0) + self.provision_s.get(accelerator_class, 0.0)

    @property
    def image_s(self) -> float:
        """Median seconds of one image of the slowest variant on its slowest class."""
        return max((self.timings.execution_s(*key).get(1, 0.0) for key in self.keys), default=0.0)

    def at(
        self,
        demand: float,
        *,
        running: Mapping[PoolKey, int] | None = None,
        running_batch: Mapping[PoolKey, int] | None = None,
        running_hosts: Mapping[HostSet, int] | None = None,
    ) -> CascadeProblem:
        """The problem at a demand in requests per second, with what runs now."""
        return replace(
            self.problem,
            demand=demand,
            running=running or {},
            running_batch=running_batch or {},
            running_hosts=running_hosts or {},
        )

    def share(self, placement: Placement, *, demand: float, backlog: Mapping[str, float] | None = None) -> Sharing:
        """The policy's mixture of rows on these workers; ``backlog`` is requests per second to clear, by variant."""
        return self.policy.share(self.at(demand), placement, backlog=backlog)

    def own(self, hosts: HostSet) -> HostSet:
        """Those of these weights that are the cascade's."""
        return HostSet.of(self.variants_with.keys() & set(hosts.weights), hosts.accelerator_class)

    @cached_property
    def weighed(self) -> tuple[Weighed, ...]:
        """The weights of a cascade on a WorkerPool, with their memory there."""
        (pool,) = self.spec.workers
        return tuple(weights_of(self.spec, self.profile, pool.accelerator_class))

    def fits(self, hosts: HostSet) -> bool:
        """Whether a worker may host these weights together."""
        return any(
            room.accelerator_class == hosts.accelerator_class and set(hosts.weights) <= set(room.weights)
            for room in self.rooms
        )

    def hosts_for(self, pools: Mapping[PoolKey, PoolSize]) -> dict[HostSet, int]:
        """Dedicated workers by what they host, for pools by variant."""
        found: Counter[HostSet] = Counter()
        for (name, on), size in pools.items():
            if name in self.weights:
                found[HostSet.of([self.weights[name]], on)] += size.replicas
        return dict(found)

    def placement(
        self, hosts: Mapping[HostSet, int], *, sizes: Mapping[PoolKey, PoolSize], batches: Mapping[PoolKey, int]
    ) -> Placement:
        """Workers by what they host, and by variant how many of them serve it.

        Dedicated workers of the same weights are divided among its variants in the proportion of ``sizes``, so that
        none counts twice.
        """
        if self.hull is not None:
            own: Counter[HostSet] = Counter()
            for each, count in hosts.items():
                own[self.hull.working(self.own(each))] += count
            del own[HostSet((), self.hull.accelerator_class)]
            return Placement(own, served_by(self.hull, own))
        pools: dict[PoolKey, PoolSize] = {}
        for each, count in hosts.items():
            for digest in each.weights:
                keys = [(name, each.accelerator_class) for name in self.variants_with.get(digest, ())]
                wanted = [sizes[key].replicas if key in sizes else 0 for key in keys]
                for key, part in zip(keys, _divided(count, wanted), strict=True):
                    before = pools[key].replicas if key in pools else 0
                    pools[key] = PoolSize(before + part, batches.get(key, 1))
        return Placement(hosts, {key: size for key, size in pools.items() if size.replicas})


def _divided(count: int, wanted: Sequence[int]) -> list[int]:
    """A count in as many parts, in the proportion of what is ``wanted``, or else all to the first."""
    total = sum(wanted)
    if not total or len(wanted) == 1:
        return [count if index == 0 else 0 for index in range(len(wanted))]
    ends = [round(count * sum(wanted[: index + 1]) / total) for index in range(len(wanted))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def prices_per_hour(classes: Sequence[AcceleratorClass]) -> dict[str, float]:
    """Price of one accelerator by class."""
    return {c.name: float(money(c.price_per_hour)) for c in classes}


@dataclass(frozen=True)
class Sized:
    """The part of the preparation that takes long, shared by cascades with the same measurements and requirements."""

    frontier: Frontier
    timings: ProfileTimings
    stages: tuple[Stages, ...]


def prepare(
    cascade: DiffusionCascade,
    profile: CascadeProfile,
    *,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
    slowdowns: Mapping[PoolKey, float] = NONE_SLOWER,
    mix: Mix = NO_MIX,
    kept: dict[object, Sized] | None = None,
) -> Prepared:
    """Everything that planning needs from a spec and its profile; raises NotPlannable with a message naming the field.

    ``slowdowns`` says how many times slower pools are than the profile says, and ``mix`` which share of the requests is
    for which size (empty: the same for all). ``kept`` is a cache that several
    cascades use; its keys hold everything that the values depend on.
    """
    spec = cascade.spec
    chosen = policy(spec.policy.name)
    problems = profile_problems(spec, profile.spec)
    if problems:
        field, message = problems[0]
        raise NotPlannable(Reason.PROFILE_INVALID, f"{field}: {message}")
    shared = hosts_all(spec)
    in_pools = [f"spec.workers.{index}.pool" for index, each in enumerate(spec.workers) if each.pool is not None]
    if (shared or in_pools) and not chosen.shares_workers:
        raise NotPlannable(
            Reason.POLICY_NEEDS_DEDICATED_WORKERS,
            f"spec.policy.name: {chosen.name} plans for one variant a worker: "
            "give the cascade pools of its own with hosting: dedicated in spec.workers",
        )
    if in_pools and not all(each.accelerator_class for each in spec.workers):
        raise NotPlannable(Reason.INVALID_SPEC, f"{in_pools[0]}: {NO_WORKER_POOLS}")
    found = profile_for(spec, profile.spec)
    every = _slowed(profile.spec.execution, slowdowns)
    default = found.model_copy(update={"execution": _slowed(found.execution, slowdowns)})
    measurements = found.model_copy(update={"execution": mixed(default.execution, every, spec.sizes, mix)})
    usable = {v.name: spec.classes_of(v) for v in spec.variants}
    busy = 1 - spec.policy.headroom_percent / 100
    rooms = _rooms(spec, measurements, classes)
    level = ServiceLevel(
        objective_s=spec.objective.latency_s,
        attainment=spec.objective.attainment_percent / 100,
        degrade=spec.policy.overload == "degrade",
        light_utilisation=min(settings.light_utilisation, busy),
        heavy_utilisation=min(settings.heavy_utilisation, busy),
        headroom=1 - busy,
    )
    # Benchmarks charge exactly what a published table says, so it is taken as exact.
    published = profile.spec.source.kind == "published"
    memory_mib = {c.name: c.memory_mi_b for c in classes}
    provision_s = {c.name: c.provision_s for c in classes if c.elastic is not None}
    digest = hashlib.sha256(measurements.model_dump_json().encode()).hexdigest()
    floored = spec.objective.quality is not None
    key = (digest, spec.policy.name, tuple(usable.items()), level, tuple(memory_mib.items()), floored)
    sized = (kept or {}).get(key)
    if sized is None:
        try:
            frontier = chosen.candidates(measured(measurements, variants={v.name for v in spec.variants}))
        except ValueError as error:
            raise NotPlannable(
                Reason.PROFILE_INVALID, f"spec.profileRef: {profile.metadata.name}: {error}: profile it again"
            ) from error
        timings = ProfileTimings(measurements, memory_mib=memory_mib)
        sized = Sized(
            frontier,
            timings,
            priced(
                [stages_of(c, timings=timings, classes=usable, level=level) for c in frontier.chains],
                accelerator_time=0.0 if published or floored else ACCELERATOR_TIME_PRICE * chosen.thrift,
            ),
        )
        if kept is not None:
            kept[key] = sized
    floor = _floor(spec, found, sized.frontier)
    problem = CascadeProblem(
        ref=cascade.ref,
        frontier=sized.frontier,
        stages=sized.stages,
        level=level,
        demand=0.0,
        light_utilisation=level.light_utilisation,
        heavy_utilisation=level.heavy_utilisation,
        min_hosts={v.name: v.min_hosts for v in spec.variants},
        workers={pool.accelerator_class: _bounds(pool) for pool in spec.workers},
        classes=usable,
        switch_prices=_switch_prices(
            spec,
            sized.timings,
            usable,
            settings,
            provision_s=provision_s,
            noise=0.0 if published else QUALITY_NOISE,
            thrift=chosen.thrift,
        ),
        weight=float(spec.policy.weight),
        floor=floor,
        floor_held_from=floor,
    )
    if shared or in_pools:
        problem = _on_shared_workers(problem, spec, level, rooms, offer=settings.shared_offer)
    return Prepared(
        spec,
        measurements,
        chosen,
        sized.timings,
        problem,
        rooms=rooms,
        memory_mib=memory_mib,
        spec_print=_print(spec),
        profile_print=_print(found),
        corrections=tuple((*key, factor) for key, factor in sorted(slowdowns.items())),
        default_timings=ProfileTimings(default, memory_mib=memory_mib),
        sized_s=seconds_by_size(every, spec.sizes),
        provision_s=provision_s,
        floor=floor,
        grids={} if floor is None else _grids(found),
    )


def _grids(profile: ProfileSpec) -> dict[Variants, QualityGrid]:
    """The quality of each chain at any shares; chains that were not measured at a full grid are left out."""
    found: dict[Variants, QualityGrid] = {}
    for chain in measured(profile, variants={row.variant for row in profile.execution}).chains:
        with contextlib.suppress(ValueError):
            found[chain.chain] = QualityGrid(chain)
    return found


def _floor(spec: CascadeSpec, profile: ProfileSpec, frontier: Frontier) -> float | None:
    """The quality floor as normalised quality; None if there is none."""
    if spec.objective.quality is None:
        return None
    metric = float(spec.objective.quality.no_worse_than)
    if frontier.best == frontier.worst:
        held = frontier.best <= metric if profile.direction == "min" else frontier.best >= metric
        return 0.0 if held else OUT_OF_REACH
    return frontier.value(metric)


def hosts_all(spec: CascadeSpec) -> bool:
    """Whether workers of the cascade host all of its variants."""
    return any(pool.hosting is Hosting.SHARED for pool in spec.workers)


def _rooms(spec: CascadeSpec, profile: ProfileSpec, classes: Sequence[AcceleratorClass]) -> tuple[HostSet, ...]:
    """The largest sets of weights that workers may host; raises NotPlannable for what does not fit or is not
    possible."""
    if len(spec.workers) > 1 and (hosts_all(spec) or any(each.pool is not None for each in spec.workers)):
        raise NotPlannable(
            Reason.INVALID_SPEC,
            "spec.workers: a cascade with hosting: shared, or on a WorkerPool, has one pool, so far: remove the others",
        )
    try:
        return rooms_of(spec, profile, {c.name: c.memory_mi_b for c in classes})
    except TooLarge as error:
        raise NotPlannable(Reason.INVALID_SPEC, str(error)) from error


def _on_shared_workers(
    problem: CascadeProblem, spec: CascadeSpec, level: ServiceLevel, sets: tuple[HostSet, ...], *, offer: float
) -> CascadeProblem:
    """The problem of a cascade whose workers host all variants, or one of the ``sets`` each.

    Workers of a WorkerPool host what fits beside the weights of others, so none need host all. They are planned for
    ``offer`` times their time, where what is too much is degraded; else for no more than what keeps requests in time.
    """
    pool = spec.workers[0]
    hull = hull_of(
        problem.stages,
        weights={v.name: v.weights.digest for v in spec.variants},
        accelerator_class=pool.accelerator_class,
        objective_s=level.objective_s,
        late=None if level.degrade else level.late,
        floor=math.inf if problem.floor is None else problem.floor,
    )
    if len(sets) > 1:
        sets = with_one_long_variant(sets, hull)
    if len(sets) > 1 or pool.pool is not None:
        hull = replace(hull, everywhere=False)
    if pool.pool is not None:
        hull = replace(hull, rows=useful_rows(hull))
    utilisation = problem.heavy_utilisation * (offer if level.degrade else 1.0)
    return replace(problem, hull=hull, sets=sets, heavy_utilisation=utilisation)


def _slowed(execution: Sequence[Execution], slowdowns: Mapping[PoolKey, float]) -> list[Execution]:
    """The rows with the times of each pool multiplied by its slowdown."""
    rows = []
    for row in execution:
        factor = slowdowns.get((row.variant, row.accelerator_class), 1.0)
        p50, p95 = (round(factor * micros) for micros in (row.p50_micros, row.p95_micros))
        rows.append(row.model_copy(update={"p50_micros": p50, "p95_micros": p95}) if factor != 1 else row)
    return rows


def _bounds(pool: Workers) -> WorkerBounds:
    budget = pool.budget_per_hour
    return WorkerBounds(pool.min, pool.max, None if budget is None else float(money(budget)))


def _switch_prices(
    spec: CascadeSpec,
    timings: ProfileTimings,
    classes: Mapping[str, Sequence[str]],
    settings: PlannerSettings,
    *,
    provision_s: Mapping[str, float],
    noise: float,
    thrift: float,
) -> dict[PoolKey, float]:
    """Price of a start by pool, as a part of the metric's span (the formula is above); dearer where moves are slow."""
    prices = {}
    for name, usable in classes.items():
        for accelerator_class in usable:
            takes_s = timings.load_s(name, accelerator_class) + provision_s.get(accelerator_class, 0.0)
            dear = takes_s > spec.objective.latency_s / 2
            price = settings.dear_switch_price if dear else settings.switch_price
            full = thrift * max(price / TUNED_SPAN, noise)
            prices[name, accelerator_class] = full if spec.objective.quality is None else min(full, FLOOR_START_PRICE)
    return prices


def _print(part: CascadeSpec | ProfileSpec) -> str:
    return f"{zlib.crc32(part.model_dump_json().encode()):08x}"


class Preparations:
    """Prepares cascades, and keeps the result while spec and profile stay equal. It is a cache with no other effect.

    Args:
        settings: the planner's constants.
        classes: the accelerator classes of the cluster, with their prices and memory.
    """

    def __init__(self, settings: PlannerSettings, classes: Sequence[AcceleratorClass]) -> None:
        self._settings = settings
        self._classes = tuple(classes)
        self._kept: dict[CascadeRef, tuple[object, Prepared | NotPlannable]] = {}
        self._shared: dict[object, Sized] = {}

    def of(
        self,
        cascade: DiffusionCascade,
        profile: CascadeProfile,
        slowdowns: Mapping[PoolKey, float] = NONE_SLOWER,
        mix: Mix = NO_MIX,
    ) -> Prepared:
        """The prepared cascade; raises NotPlannable."""
        key = (cascade.spec, profile, slowdowns, mix)
        kept = self._kept.get(cascade.ref)
        if kept is None or kept[0] != key:
            result: Prepared | NotPlannable
            try:
                result = prepare(
                    cascade,
                    profile,
                    settings=self._settings,
                    classes=self._classes,
                    slowdowns=slowdowns,
                    mix=mix,
                    kept=self._shared,
                )
            except NotPlannable as error:
                result = error
        else:
            result = kept[1]
        # The new key is stored even if it equals the old one: comparing an object with itself is quick next time.
        self._kept[cascade.ref] = (key, result)
        if isinstance(result, NotPlannable):
            raise result
        return result

    def keep_only(self, refs: Collection[CascadeRef]) -> None:
        """Forget cascades that are gone."""
        self._kept = {ref: kept for ref, kept in self._kept.items() if ref in refs}
        if len(self._shared) > 2 * len(self._kept) + SPARE_SIZED:
            self._shared = {}

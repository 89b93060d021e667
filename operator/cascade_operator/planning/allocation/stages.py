"""The stages of a chain: which batch sizes on which classes meet the objective, and how much load they carry.

The objective is split between the two stages. With e the execution time of one image (95 % quantile), each stage gets

    e + part·slack    where    slack = objective - e_light - e_heavy

and ``part`` is its share of e_light + e_heavy, but at least a tenth. For example, an objective of 10 s with images of
1 s and 4 s has a slack of 5 s; the light stage gets 2 s and the heavy stage 8 s. If each stage keeps the tail of its
wait within its part, every path is within the objective. So each stage can be sized by itself, by constraints that are
linear in the replicas x:

    load ≤ utilisation·Σ μx    and    load ≤ Σ μ(x - δ)

μ is the rate of a replica, and δ (the reserve) the replicas' worth of idle time that keeps waits short (`latency`).

With ``overload: degrade``, a heavy image that would be late is replaced by its light one. Then the heavy stage keeps no
reserve, since a heavy replica that waits for work gives quality away, and the light stage may use the whole objective,
since only its wait can make a request late. The heavy stage keeps a reserve for direct prompts only if no light stage
runs: with one, a direct prompt that would be late gets a light image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from cascade_api.batches import batch_seconds
from cascade_api.profile import ProfileSpec

from .frontier import Chain
from .latency import BatchService, reserve
from .mixtures import Mixer

SHED_PRICE = 100.0
"""Normalised quality lost with a request that is not served. It is more than its accelerator time could gain."""

LEAST_SLACK_PART = 0.1
DEGRADED_LATE = 0.5
"""Share of the direct prompts that may be too late for the heavy pool, with ``overload: degrade``."""
LEAST_LATE = 0.001
BATCH_GAIN = 1.02
"""A larger batch is considered only if its rate is higher by this factor: less is noise, and it costs latency."""


class Role(str, Enum):
    """What a variant does in a chain; the light stage includes the discriminator."""

    LIGHT = "light"
    HEAVY = "heavy"


@dataclass(frozen=True)
class ServiceLevel:
    """What the stages must meet: the objective, the share of requests answered in time, and how busy pools may be.

    ``headroom`` is the part of the workers' time that the cascade's spec keeps free; the utilisations include it.
    """

    objective_s: float
    attainment: float
    degrade: bool
    light_utilisation: float
    heavy_utilisation: float
    headroom: float = 0.0

    def utilisation(self, role: Role) -> float:
        return self.light_utilisation if role is Role.LIGHT else self.heavy_utilisation

    @property
    def late(self) -> float:
        """Share of a stage's requests that may wait too long: half of the requests that may be late, per stage."""
        return max((1 - self.attainment) / 2, LEAST_LATE)


@dataclass(frozen=True)
class Column:
    """One replica of a variant, in one role, on one class, at one batch size.

    ``rate`` is μ in requests per second. ``reserve`` is δ for the stage's whole load, and ``direct_reserve`` is δ for
    its direct prompts if no light stage runs.
    """

    variant: str
    accelerator_class: str
    role: Role
    service: BatchService
    reserve: float
    direct_reserve: float

    @property
    def rate(self) -> float:
        return self.service.rate

    def enough(self, demand: float, *, utilisation: float) -> int:
        """Replicas that carry a whole demand (requests per second) alone, so that more of them would be useless."""
        idle = max((delta for delta in (self.reserve, self.direct_reserve) if math.isfinite(delta)), default=0.0)
        return math.ceil(max(demand / (utilisation * self.rate), demand / self.rate + idle))


@dataclass(frozen=True)
class Stages:
    """A chain's rows that can meet the objective, and the columns of its stages (empty: it cannot be used).

    ``second_price`` is the normalised quality that an accelerator-second must gain to be worth spending. ``too_late``
    says in words what the objective leaves out, with its seconds.
    """

    chain: Chain
    columns: tuple[Column, ...]
    second_price: float = 0.0
    too_late: tuple[str, ...] = ()

    def of(self, role: Role) -> tuple[Column, ...]:
        return self._by_role[role]

    def pools(self, role: Role) -> Mapping[tuple[str, str], tuple[Column, ...]]:
        """The columns of a stage by (variant, class), smallest batch first."""
        return self._pools[role]

    def image_s(self, role: Role) -> float:
        """Accelerator-seconds per image of a stage, at its best batch size and class; 0 if it has no columns."""
        return min((1 / column.rate for column in self.of(role)), default=0.0)

    @cached_property
    def gains(self) -> tuple[float, ...]:
        """What a prompt is worth by each row: quality - second_price·(e_light·(1 - r) + e_heavy·T)."""
        light = self.second_price * self.image_s(Role.LIGHT)
        heavy = self.second_price * self.image_s(Role.HEAVY)
        return tuple(row.value - light * row.light_load - heavy * row.heavy_load for row in self.chain.rows)

    @cached_property
    def mixer(self) -> Mixer:
        """The table that gives the best mixture of the rows."""
        return Mixer(self.chain.rows, self.gains, shed_price=SHED_PRICE)

    @cached_property
    def relaxed(self) -> Stages:
        """The same chain without reserves and with each pool at its highest rate: an upper bound of what it carries."""
        quickest = {(c.role, c.variant, c.accelerator_class): c for c in sorted(self.columns, key=lambda c: c.rate)}
        ideal = [
            replace(c, service=BatchService(1, 1 / c.rate, 1 / c.rate), reserve=0.0, direct_reserve=0.0)
            for c in quickest.values()
        ]
        return replace(self, columns=tuple(ideal))

    @cached_property
    def _by_role(self) -> Mapping[Role, tuple[Column, ...]]:
        return {role: tuple(column for column in self.columns if column.role is role) for role in Role}

    @cached_property
    def _pools(self) -> Mapping[Role, Mapping[tuple[str, str], tuple[Column, ...]]]:
        found: dict[Role, dict[tuple[str, str], tuple[Column, ...]]] = {role: {} for role in Role}
        for column in sorted(self.columns, key=lambda c: c.service.batch):
            key = (column.variant, column.accelerator_class)
            found[column.role][key] = (*found[column.role].get(key, ()), column)
        return found


def priced(stages: Sequence[Stages], *, accelerator_time: float) -> tuple[Stages, ...]:
    """The stages with a price of accelerator time: an image of the slowest heavy stage costs ``accelerator_time``."""
    unit = max((s.image_s(Role.HEAVY) for s in stages), default=0.0) or 1.0
    return tuple(replace(s, second_price=accelerator_time / unit) for s in stages)


class ProfileTimings:
    """The times of a profile: execution by variant, class and batch, and moves by variant and class.

    Args:
        profile: the profile.
        memory_mib: memory of an accelerator by class; batches that need more are left out. 0 or absent: not known.
    """

    def __init__(self, profile: ProfileSpec, *, memory_mib: Mapping[str, int] | None = None) -> None:
        ceilings = memory_mib or {}
        self._judging: dict[str, dict[int, BatchService]] = {}
        for judged in profile.discriminator:
            by_batch = self._judging.setdefault(judged.accelerator_class, {})
            by_batch[judged.batch] = BatchService(judged.batch, judged.p50_micros / 1e6, judged.p95_micros / 1e6)
        self._services: dict[tuple[str, str], dict[int, BatchService]] = {}
        for row in profile.execution:
            ceiling = ceilings.get(row.accelerator_class, 0)
            if ceiling and row.memory_mi_b > ceiling:
                continue
            by_batch = self._services.setdefault((row.variant, row.accelerator_class), {})
            by_batch[row.batch] = BatchService(row.batch, row.p50_micros / 1e6, row.p95_micros / 1e6)
        self._load_s = {(start.variant, start.accelerator_class): start.load_millis / 1000 for start in profile.startup}

    def services(self, variant: str, accelerator_class: str, role: Role) -> list[BatchService]:
        """The measured batches of a variant on a class, smallest first; in the light role with the discriminator."""
        measured = self._services.get((variant, accelerator_class), {})
        chosen = [measured[batch] for batch in sorted(measured)]
        return [self._judged(s, accelerator_class) for s in chosen] if role is Role.LIGHT else chosen

    def execution_s(self, variant: str, accelerator_class: str) -> dict[int, float]:
        """Median seconds of a batch by its size, without the discriminator."""
        return {s.batch: s.p50_s for s in self.services(variant, accelerator_class, Role.HEAVY)}

    def quickest_s(self, variant: str, classes: Collection[str], role: Role) -> float:
        """Seconds of one image (95 % quantile) on the fastest of ``classes``; infinite if none was measured."""
        times = [s.p95_s for c in classes for s in self.services(variant, c, role) if s.batch == 1]
        return min(times, default=math.inf)

    def load_s(self, variant: str, accelerator_class: str) -> float:
        """Seconds to load the weights of a variant on a running worker; 0 if that was not measured."""
        return self._load_s.get((variant, accelerator_class), 0.0)

    def _judged(self, service: BatchService, accelerator_class: str) -> BatchService:
        """The batch with what the discriminator adds to it."""
        judging = self._judging.get(accelerator_class)
        if not judging:
            return service
        p50_s = batch_seconds({batch: added.p50_s for batch, added in judging.items()}, service.batch)
        p95_s = batch_seconds({batch: added.p95_s for batch, added in judging.items()}, service.batch)
        return BatchService(service.batch, service.p50_s + p50_s, service.p95_s + p95_s)


def stages_of(
    chain: Chain, *, timings: ProfileTimings, classes: Mapping[str, Collection[str]], level: ServiceLevel
) -> Stages:
    """The columns and usable rows of a chain; ``classes`` are those that each variant may run on.

    If light and heavy execution together exceed the objective, rows that escalate are left out. If that of one variant
    alone does, the rows that need it are left out. A chain of one variant has only the heavy stage, which may use the
    whole objective, and no light image can replace a late one.
    """
    if chain.alone:
        level = replace(level, degrade=False)
    variants = {Role.HEAVY: chain.heavy} if chain.alone else {Role.LIGHT: chain.light, Role.HEAVY: chain.heavy}
    seconds = {role: timings.quickest_s(name, classes[name], role) for role, name in variants.items()}
    light_s, heavy_s = seconds.get(Role.LIGHT, 0.0), seconds[Role.HEAVY]
    slack = level.objective_s - light_s - heavy_s
    escalates = slack > 0 and not chain.alone
    if escalates:
        part = max(light_s / (light_s + heavy_s), LEAST_SLACK_PART)
        part = min(part, 1 - LEAST_SLACK_PART)
        budgets = {Role.LIGHT: light_s + part * slack, Role.HEAVY: heavy_s + (1 - part) * slack}
    else:
        budgets = dict.fromkeys(Role, level.objective_s)
    columns = [
        column
        for role, variant in variants.items()
        for accelerator_class in classes[variant]
        for column in _columns(variant, accelerator_class, role, timings, budgets[role], level)
    ]
    roles = {column.role for column in columns}
    rows = tuple(
        row
        for row in chain.rows
        if (escalates or not row.escalated)
        and (Role.LIGHT in roles or not row.light_load)
        and (Role.HEAVY in roles or not row.heavy_load)
    )
    return Stages(replace(chain, rows=rows), tuple(columns), too_late=_too_late(chain, seconds, level.objective_s))


def _too_late(chain: Chain, seconds: Mapping[Role, float], objective_s: float) -> tuple[str, ...]:
    """What the objective leaves out of a chain, in words: variants that are too slow alone, or else escalations."""
    names = {Role.LIGHT: chain.light, Role.HEAVY: chain.heavy}
    slow = tuple(
        f"{names[role]} ({taken_s:.3g} s an image)"
        for role, taken_s in seconds.items()
        if objective_s <= taken_s < math.inf
    )
    both_s = sum(seconds.values())
    if slow or chain.alone or not objective_s <= both_s < math.inf:
        return slow
    return (f"escalations from {chain.light} to {chain.heavy} ({both_s:.3g} s for both images)",)


def _columns(
    variant: str, accelerator_class: str, role: Role, timings: ProfileTimings, budget_s: float, level: ServiceLevel
) -> list[Column]:
    columns: list[Column] = []
    for service in timings.services(variant, accelerator_class, role):
        wait_s = budget_s - service.p95_s
        if wait_s <= 0:
            continue
        if level.degrade:
            late = level.late if role is Role.LIGHT else DEGRADED_LATE
            direct = reserve(service=service, wait_s=level.objective_s - service.p95_s, late=late)
            overall = direct if role is Role.LIGHT else 0.0
        else:
            overall = direct = reserve(service=service, wait_s=wait_s, late=level.late)
        column = Column(variant, accelerator_class, role, service, overall, direct)
        if all(column.rate > BATCH_GAIN * smaller.rate or column.reserve < smaller.reserve for smaller in columns):
            columns.append(column)
    return columns

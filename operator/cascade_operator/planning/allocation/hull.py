"""What quality accelerator time buys where every worker hosts every variant: a walk along a hull. Pure.

Load then moves between variants for nothing, so all rows of all chains compete for one good, the time of the workers.
With demand λ, W workers that may be busy to the part ρ, and a row's accelerator seconds per prompt

    L = (1 - r)·e_light + T·e_heavy

the best mixture with Σ share·L ≤ W·ρ/λ is of the two neighbouring corners of the upper hull of all points (L, gain).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeVar

from .frontier import LEAST_REST, Mixture, Portion, Row, TierShares, tier_rows
from .latency import BatchService, Path, Queue, late_share
from .mixtures import NOTHING
from .stages import Role, Stages

P = TypeVar("P")
_EQUAL = 1e-12
HALVINGS: Final = 10
LEAST_LEFT: Final = 0.05
"""Part of the time that heavy work is taken to get at least."""
MUCH_SHORTER: Final = 0.25
"""An image that takes at most this part of another one's time is much shorter: it need not wait for that."""


def upper_hull(points: Sequence[P], *, cost: Callable[[P], float], worth: Callable[[P], float]) -> list[P]:
    """The points that no mixture of others replaces, cheapest first: more cost buys more worth, at a falling rate."""
    kept: list[P] = []

    def slope(low: P, high: P) -> float:
        return (worth(high) - worth(low)) / (cost(high) - cost(low))

    for point in sorted(points, key=lambda p: (cost(p), -worth(p))):
        if kept and worth(point) <= worth(kept[-1]) + _EQUAL:
            continue
        while len(kept) > 1 and slope(kept[-2], point) >= slope(kept[-2], kept[-1]) - _EQUAL:
            kept.pop()
        kept.append(point)
    return kept


@dataclass(frozen=True, order=True)
class HostSet:
    """Weights that a worker hosts together, by digest and sorted, on an accelerator class."""

    weights: tuple[str, ...]
    accelerator_class: str

    @classmethod
    def of(cls, weights: Iterable[str], accelerator_class: str) -> HostSet:
        """The set of these weights, in any order."""
        return cls(tuple(sorted(set(weights))), accelerator_class)


@dataclass(frozen=True)
class Corner:
    """A row, the accelerator seconds that a prompt by it takes, and what it is worth (quality less their price)."""

    row: Row
    seconds: float
    gain: float


@dataclass(frozen=True)
class Hull:
    """All corners of a cascade whose workers host all of its variants, on one accelerator class.

    ``weights`` has the digest of each variant's weights. ``services`` are single images by variant and role,
    ``batches`` the largest batch by variant, and ``least_s`` the seconds per prompt by the cheapest corner in its
    quickest batches. Of the requests the part ``late`` may take longer than ``objective_s``; None: what would is
    degraded. ``floor`` is the normalised quality beyond which more is worth nothing (infinite: there is none).
    """

    weights: Mapping[str, str]
    accelerator_class: str
    corners: tuple[Corner, ...]
    services: Mapping[tuple[str, Role], BatchService]
    batches: Mapping[str, int]
    least_s: float
    objective_s: float = math.inf
    late: float | None = None
    rows: Mapping[Row, float] = field(default_factory=dict)
    """All rows that can meet the objective, and what a prompt by each is worth."""
    everywhere: bool = True
    """Whether every worker hosts all variants."""
    floor: float = math.inf
    tiers: Mixture = ()
    """The rows of requests with a tier, with their shares of all requests; what they take is in all seconds here."""

    @property
    def hosts(self) -> HostSet:
        """The weights of all variants."""
        return HostSet.of(self.weights.values(), self.accelerator_class)

    @cached_property
    def works(self) -> Mapping[Row, Mapping[str, float]]:
        """Accelerator seconds per prompt that each row takes of each of its variants."""
        return {row: self._work(row) for row in dict.fromkeys([*self.rows, *(c.row for c in self.corners)])}

    @property
    def rest(self) -> float:
        """The share of the requests that leave it to the plan."""
        return 1.0 - sum(portion.share for portion in self.tiers)

    @cached_property
    def tier_work(self) -> Mapping[str, float]:
        """Accelerator seconds per prompt that requests with a tier take of each variant."""
        work: defaultdict[str, float] = defaultdict(float)
        for portion in self.tiers:
            for variant, seconds in self._alone(portion.row).items():
                work[variant] += portion.share * seconds
        return work

    def with_tiers(self, shares: TierShares) -> Hull:
        """The same where such shares of the requests ask for a tier: a prompt then takes the mean of all requests."""
        rows = tier_rows(self.rows, self.image_s)
        asked = {"low": shares.low, "high": min(shares.high, 1.0 - shares.low - LEAST_REST)}
        tiers = tuple(Portion(asked[name], row) for name, row in rows.items() if asked[name] > 0)
        if not tiers:
            return self
        beside = replace(self, tiers=tiers)
        taken, rest = sum(beside.tier_work.values()), beside.rest
        corners = tuple(replace(corner, seconds=rest * corner.seconds + taken) for corner in self.corners)
        return replace(beside, corners=corners, least_s=rest * self.least_s + taken)

    def _work(self, row: Row) -> dict[str, float]:
        work = defaultdict(float, self.tier_work)
        for variant, seconds in self._alone(row).items():
            work[variant] += self.rest * seconds
        return work

    def _alone(self, row: Row) -> dict[str, float]:
        work: defaultdict[str, float] = defaultdict(float)
        if row.light_load:
            work[row.light] += row.light_load * self.services[row.light, Role.LIGHT].p50_s
        if row.heavy_load:
            work[row.heavy] += row.heavy_load * self.services[row.heavy, Role.HEAVY].p50_s
        return work

    @cached_property
    def most_s(self) -> float:
        """Seconds per prompt beyond which more buys nothing: with those of the best corner, or at the floor."""
        if self.corners and self.corners[0].row.value >= self.floor:
            return self.corners[0].seconds
        for low, high in pairwise(self.corners):
            if high.row.value >= self.floor:
                part = (self.floor - low.row.value) / (high.row.value - low.row.value)
                return low.seconds + part * (high.seconds - low.seconds)
        return self.corners[-1].seconds if self.corners else 0.0

    def image_s(self, variant: str) -> float:
        """Seconds of one image, not judged; 0 for a variant that cannot be used."""
        found = self.services.get((variant, Role.HEAVY)) or self.services.get((variant, Role.LIGHT))
        return found.p50_s if found else 0.0

    def queue_of(self, variant: str) -> str | None:
        """The variant whose queue a variant's requests stand in, None for its own.

        All that are not much shorter than the longest stand in that one's: a worker takes one of them at a time, the
        most urgent first, or they would all be late together.
        """
        if not self.everywhere:
            return None
        longest = max(self.batches, key=self.image_s, default=variant)
        alike = variant != longest and self.image_s(variant) > MUCH_SHORTER * self.image_s(longest)
        return longest if alike else None

    def working(self, hosts: HostSet) -> HostSet:
        """Those of these weights whose variants can all be asked: the weights that own their queues are there."""
        there = set(hosts.weights)
        waits = {self.weights[name] for name in self.weights if self.weights[self.queue_of(name) or name] not in there}
        return HostSet.of(there - waits, hosts.accelerator_class)

    def mixture(self, seconds: float) -> tuple[Mixture, float]:
        """The best mixture at so many seconds per prompt, and its gain; of the cheapest corner where less is there.

        No more is spent than `most_s`. There must be a corner.
        """
        seconds = min(seconds, self.most_s)
        at = bisect_right(self.corners, seconds, key=lambda corner: corner.seconds)
        if at == 0 or at == len(self.corners):
            corner = self.corners[min(at, len(self.corners) - 1)]
            return (Portion(1.0, corner.row),), corner.gain
        low, high = self.corners[at - 1], self.corners[at]
        part = (seconds - low.seconds) / (high.seconds - low.seconds)
        gain = low.gain + part * (high.gain - low.gain)
        portions = (Portion(1.0 - part, low.row), Portion(part, high.row))
        return tuple(portion for portion in portions if portion.share > NOTHING), gain

    def in_time(self, seconds: float, *, workers: float, demand: float) -> float:
        """Of so many seconds per prompt as many as may be spent without too many requests being late.

        The cheapest corner is never given up: what is too late there is shed.
        """
        if self.late is None:
            return seconds

        def late_with(spent: float) -> float:
            paths = shared_paths(self, self.mixture(spent)[0], workers=workers, demand=demand)
            return late_share(paths, seconds=self.objective_s)

        low, high = min(self.corners[0].seconds, seconds), seconds
        if late_with(high) <= self.late:
            return high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if late_with(middle) <= self.late else (low, middle)
        return low

    def seconds(self, mixture: Mixture, role: Role) -> float:
        """Accelerator seconds per prompt that a mixture takes in a role."""
        return sum(p.share * self._seconds(p.row, role) for p in mixture)

    def _seconds(self, row: Row, role: Role) -> float:
        load, name = (row.light_load, row.light) if role is Role.LIGHT else (row.heavy_load, row.heavy)
        return load * self.services[name, role].p50_s if load else 0.0


def shared_paths(hull: Hull, mixture: Mixture, *, workers: float, demand: float) -> list[Path]:
    """The paths of every row of a mixture on workers that host all variants, with light work first.

    A light image waits for other light work alone, so the steps of what it interrupts are taken for nothing. The rest
    gets what light work leaves of the time: all seconds of heavy work are longer by 1/(1 - ρ_light).
    """
    workers = max(round(workers), 1)
    mixture = (*(Portion(hull.rest * each.share, each.row) for each in mixture), *hull.tiers)
    light_busy = demand * hull.seconds(mixture, Role.LIGHT) / workers
    stretch = 1 / max(1 - light_busy, LEAST_LEFT)

    def queue(role: Role, factor: float) -> Queue:
        share = sum(p.share * (p.row.light_load if role is Role.LIGHT else p.row.heavy_load) for p in mixture)
        mean_s = factor * hull.seconds(mixture, role) / share if share else 0.0
        return Queue(demand * share, BatchService(1, mean_s, mean_s), workers)

    heavy_queue = queue(Role.HEAVY, stretch)
    light_wait, heavy_wait = queue(Role.LIGHT, 1.0).wait, heavy_queue.wait
    found = []
    for portion in mixture:
        row = portion.row
        light_s = hull.services[row.light, Role.LIGHT].p95_s if row.light_load else 0.0
        heavy_s = stretch * hull.services[row.heavy, Role.HEAVY].p95_s if row.heavy_load else 0.0
        found += [
            Path(portion.share * row.direct, heavy_s, (heavy_wait,), row.heavy, heavy_queue),
            Path(portion.share * (1 - row.direct - row.escalated), light_s, (light_wait,)),
            Path(portion.share * row.escalated, light_s + heavy_s, (light_wait, heavy_wait), row.heavy, heavy_queue),
        ]
    return [path for path in found if path.share > 0]


def hull_of(
    stages: Sequence[Stages],
    *,
    weights: Mapping[str, str],
    accelerator_class: str,
    objective_s: float = math.inf,
    late: float | None = None,
    floor: float = math.inf,
) -> Hull:
    """The hull of all rows that can meet the objective, with single images: batches are as they come."""
    services: dict[tuple[str, Role], BatchService] = {}
    batches: dict[str, int] = {}
    quickest: dict[tuple[str, Role], float] = {}
    for each in stages:
        for column in each.columns:
            key = (column.variant, column.role)
            services.setdefault(key, column.service)
            quickest[key] = min(quickest.get(key, column.service.p50_s), 1 / column.rate)
            batches[column.variant] = max(batches.get(column.variant, 1), column.service.batch)

    def taken_s(row: Row, times: Mapping[tuple[str, Role], float]) -> float:
        light = row.light_load * times[row.light, Role.LIGHT] if row.light_load else 0.0
        return light + (row.heavy_load * times[row.heavy, Role.HEAVY] if row.heavy_load else 0.0)

    single = {key: service.p50_s / service.batch for key, service in services.items()}
    points = []
    for each in stages:
        for row in each.chain.rows:
            seconds = taken_s(row, single)
            points.append(Corner(row, seconds, row.value - each.second_price * seconds))
    corners = tuple(upper_hull(points, cost=lambda c: c.seconds, worth=lambda c: c.gain))
    least_s = taken_s(corners[0].row, quickest) if corners else 0.0
    rows = {point.row: point.gain for point in points}
    return Hull(weights, accelerator_class, corners, services, batches, least_s, objective_s, late, rows, floor=floor)

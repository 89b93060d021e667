"""The quality that a chain reaches at a given load: the rows of a profile, without those that a mixture can replace.

A row (r, d) sends a share r of the prompts directly to the heavy variant, and a share d of the rest escalates. Per
prompt it loads the light pool with 1 - r and the heavy pool with

    T = r + (1 - r)·d

So a row is a point (r, T, quality). Several rows can be mixed: each routes a share of the prompts. A row is pruned if a
mixture of others has the same r, no more T and at least its quality, for it is then never needed, whatever the pools
carry. Since there are three constraints (the shares add up to 1, and two loads are limited), the best mixture never
needs more than three rows of a chain.

Quality is normalised over the rows of a cascade: 0 is the worst row and 1 the best, also for metrics such as FID where
less is better.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cascade_api.chains import Chained, Variants
from cascade_api.profile import ProfileSpec

from .programs import LinearProgram, SolveStatus

_EQUAL = 1e-9
LEAST_REST: Final = 0.01


@dataclass(frozen=True)
class Row(Chained):
    """One measured point of a chain: r (``direct``), d (``escalation``), both 0 to 1, and normalised quality."""

    chain: Variants
    direct: float
    escalation: float
    value: float

    @property
    def light_load(self) -> float:
        """Share of the prompts that the light pool serves."""
        return 1.0 - self.direct

    @property
    def heavy_load(self) -> float:
        """T, the share of the prompts that the heavy pool serves."""
        return self.direct + (1.0 - self.direct) * self.escalation

    @property
    def escalated(self) -> float:
        """Share of the prompts that both pools serve."""
        return (1.0 - self.direct) * self.escalation


@dataclass(frozen=True)
class Portion:
    """A share of the prompts routed by one row."""

    share: float
    row: Row


Mixture = tuple[Portion, ...]


@dataclass(frozen=True)
class Chain(Chained):
    """Two variants and the rows to choose from; or one variant with its only row, which sends every prompt directly."""

    chain: Variants
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Frontier:
    """All chains of a cascade; ``worst`` and ``best`` are the metric's values at normalised quality 0 and 1."""

    chains: tuple[Chain, ...]
    worst: float
    best: float

    def metric(self, value: float) -> float:
        """The value of the objective metric at a normalised quality."""
        return self.worst + value * (self.best - self.worst)

    def value(self, metric: float) -> float:
        """The normalised quality of a value of the objective metric."""
        return (metric - self.worst) / (self.best - self.worst) if self.best != self.worst else 1.0


@dataclass(frozen=True)
class TierShares:
    """The shares of all requests that ask for the cheapest variant (``low``) or the best row (``high``)."""

    low: float = 0.0
    high: float = 0.0

    @property
    def rest(self) -> float:
        """The share that leaves it to the plan; never nothing, or no row could be chosen for it."""
        return max(1.0 - self.low - self.high, LEAST_REST)


NO_TIERS: Final = TierShares()


def tier_rows(rows: Collection[Row], image_s: Callable[[str], float]) -> dict[Literal["low", "high"], Row]:
    """The rows of requests with a tier, of those that are served: all images by the variant that is cheapest as the
    first of a chain, and the best row; of equally good ones that of least work. ``image_s`` has the seconds of images.
    """
    if not rows:
        return {}
    cheapest = min(rows, key=lambda row: (image_s(row.light), row.alone, row.chain))
    low = Row(cheapest.chain, 1.0 if cheapest.alone else 0.0, 0.0, 0.0)

    def rank(row: Row) -> tuple[float, float]:
        return row.value, -(row.light_load * image_s(row.light) + row.heavy_load * image_s(row.heavy))

    return {"low": low, "high": max(rows, key=rank)}


def gpu_seconds(mixture: Mixture, *, light_s: float, heavy_s: float) -> float:
    """L = Σ share·((1 - r)·e_light + T·e_heavy), accelerator-seconds per prompt.

    ``light_s`` (with the discriminator) and ``heavy_s`` are seconds per image.
    """
    return sum(p.share * (p.row.light_load * light_s + p.row.heavy_load * heavy_s) for p in mixture)


def measured(profile: ProfileSpec, *, variants: Collection[str]) -> Frontier:
    """Every row of the profile whose chain consists of ``variants``; raises ValueError if there is none."""
    rows = [row for row in profile.quality if all(name in variants for name in row.chain)]
    if not rows:
        raise ValueError(f"spec.quality has no chain of {sorted(variants)}")
    metrics = [row.values_milli[profile.objective_metric] / 1000 for row in rows]
    low, high = min(metrics), max(metrics)
    worst, best = (high, low) if profile.direction == "min" else (low, high)
    empty = Frontier((), worst, best)
    chains: dict[Variants, list[Row]] = {}
    for row, metric in zip(rows, metrics, strict=True):
        chains.setdefault(row.chain, []).append(Row(row.chain, row.direct, row.escalation, empty.value(metric)))
    return Frontier(tuple(Chain(names, tuple(points)) for names, points in sorted(chains.items())), worst, best)


def pruned(frontier: Frontier) -> Frontier:
    """The frontier without the rows that a mixture of others of the same chain replaces (see the module)."""
    chains = tuple(Chain(c.chain, _hull(c.rows)) for c in frontier.chains)
    return Frontier(chains, frontier.worst, frontier.best)


def _hull(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    # The cheap test comes first: is another single row at least as good? Few enough rows remain for a program each.
    ordered = sorted(rows, key=lambda r: (r.light_load, r.heavy_load, -r.value, r.escalation))
    kept: list[Row] = []
    for row in ordered:
        if not any(_covers(other, row) for other in kept):
            kept.append(row)
    kept = [row for row in kept if not any(other is not row and _covers(other, row) for other in kept)]
    for row in list(kept):
        others = [other for other in kept if other is not row]
        if others and _replaced(row, others):
            kept = others
    return tuple(sorted(kept, key=lambda r: (r.heavy_load, r.direct)))


def _covers(other: Row, row: Row) -> bool:
    return (
        abs(other.direct - row.direct) <= _EQUAL
        and other.heavy_load <= row.heavy_load + _EQUAL
        and other.value >= row.value - _EQUAL
    )


def _replaced(row: Row, others: list[Row]) -> bool:
    program = LinearProgram(integer=False)
    shares = {program.variable(value=other.value): other for other in others}
    program.equal(dict.fromkeys(shares, 1.0), 1.0)
    program.equal({v: other.direct for v, other in shares.items()}, row.direct)
    program.at_most({v: other.heavy_load for v, other in shares.items()}, row.heavy_load)
    solution = program.solve()
    return solution.status is SolveStatus.OPTIMAL and solution.objective >= row.value - _EQUAL


class QualityGrid:
    """The quality of one chain at any (direct, escalation), by bilinear interpolation between its measured rows."""

    def __init__(self, chain: Chain) -> None:
        self._cells: Mapping[tuple[float, float], float] = {(r.direct, r.escalation): r.value for r in chain.rows}
        self._directs = sorted({r.direct for r in chain.rows})
        self._escalations = sorted({r.escalation for r in chain.rows})
        for direct in self._directs:
            for escalation in self._escalations:
                if (direct, escalation) not in self._cells:
                    raise ValueError(
                        f"spec.quality of chain {chain.path} lacks directPercent "
                        f"{direct * 100:.0f}, escalationPercent {escalation * 100:.0f}: interpolation needs a full grid"
                    )

    def value(self, direct: float, escalation: float) -> float:
        """Normalised quality at a point; outside the grid, the quality at its nearest edge."""
        (r0, r1, u), (d0, d1, v) = _bracket(self._directs, direct), _bracket(self._escalations, escalation)
        low = self._cells[r0, d0] * (1 - v) + self._cells[r0, d1] * v
        high = self._cells[r1, d0] * (1 - v) + self._cells[r1, d1] * v
        return low * (1 - u) + high * u


def _bracket(knots: list[float], point: float) -> tuple[float, float, float]:
    """The knots below and above a point, and the weight of the upper one."""
    if point <= knots[0]:
        return knots[0], knots[0], 0.0
    if point >= knots[-1]:
        return knots[-1], knots[-1], 0.0
    above = bisect_right(knots, point)
    low, high = knots[above - 1], knots[above]
    return low, high, (point - low) / (high - low)

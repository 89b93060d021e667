"""The time of the workers that several cascades share, divided among them for the demands of one tick.

A cascade with pools of its own has all the time of its workers. On a WorkerPool, the program of `allocation.sets` says
how much of each worker's time each cascade should have. What is left over is divided evenly among those that have
weights there. The rest of the planner then plans for a cascade as if it had a part of a worker, with its own weights.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cascade_api.names import CascadeRef

from ..snapshot import PoolRef
from .allocation import HostSet, Placement, PoolKey, PoolSize, User, best_on_sets
from .forecast import Forecast
from .memory import Target
from .observed import Observed

LEAST_REACH_SHARE = 0.5
"""Where fewer prompts than this share reach a variant, its backlog is charged as if this share did."""


def backlog_prompts(seen: Observed) -> float:
    """Requests per second that would be as much work as clearing the backlog within half an objective.

    A backlog of a variant's images is divided by the share of the prompts that reach the variant.
    """
    waiting = seen.backlog(seen.batches(seen.target_sizes))
    return sum(rate / max(_reached(seen, variant), LEAST_REACH_SHARE) for variant, rate in waiting.items())


def _reached(seen: Observed, variant: str) -> float:
    """Share of the prompts that reach a variant, by the plan in force."""
    light = sum(row.share * (1 - row.direct) for row in seen.rows if row.light == variant)
    return light + sum(row.share * row.heavy_share for row in seen.rows if row.heavy == variant)


def user_of(seen: Observed, demand: float, *, mean_weight: float) -> User:
    """A cascade on a WorkerPool as a user of its workers; its weight counts against the mean of all."""
    problem, hull = seen.known.problem, seen.known.hull
    if hull is None:
        raise LookupError(f"{seen.ref} is not planned for shared workers")
    return User(
        hull,
        hull.rows,
        demand=demand,
        utilisation=problem.heavy_utilisation,
        weight=problem.weight / mean_weight,
        most=float(seen.known.spec.workers[0].max),
    )


class Divisions:
    """What part of its workers' time each cascade has, for the demands that are forecast at this tick."""

    def __init__(self, observed: Sequence[Observed], forecasts: Mapping[CascadeRef, Forecast]) -> None:
        sharing: defaultdict[PoolRef, list[Observed]] = defaultdict(list)
        for seen in observed:
            if seen.pool is not None and seen.ref in forecasts:
                sharing[seen.pool].append(seen)
        self._sharing = dict(sharing)
        self._rates = {ref: expected.rate for ref, expected in forecasts.items()}
        self._known: dict[object, dict[CascadeRef, Mapping[HostSet, float]]] = {}

    def placement(self, seen: Observed, hosts: Mapping[HostSet, int], target: Target) -> Placement:
        """What a cascade has of these workers, with the pools of the variants that they serve."""
        whole = seen.placement(hosts, target)
        if seen.pool is None:
            return whole
        among = self._among(seen, self._sharing[seen.pool])
        key = seen.pool, frozenset(hosts.items()), tuple(each.ref for each in among)
        if key not in self._known:
            self._known[key] = self._divide(among, {each: n for each, n in hosts.items() if n})
        return replace(whole, hosts=self._known[key][seen.ref])

    @staticmethod
    def _among(seen: Observed, sharing: Sequence[Observed]) -> Sequence[Observed]:
        """The cascades that the time is divided among, for what ``seen`` has of it.

        One that only recommends and has no plan in force serves nobody. It gets time where its own is asked for, as a
        recommendation, but takes none from those that are acted upon.
        """
        if not any(each.acts for each in sharing):
            return sharing
        return [each for each in sharing if each.acts or each.view.plan is not None or each is seen]

    def allocated(self, seen: Observed, hosts: Mapping[HostSet, int], sizes: Mapping[PoolKey, PoolSize]) -> Placement:
        """What a cascade has when workers are as an allocation says: ``hosts``, and the pools of these ``sizes``."""
        if seen.pool is None:
            return Placement(hosts, sizes)
        return self.placement(seen, hosts, seen.target)

    def _divide(
        self, sharing: Sequence[Observed], hosts: Mapping[HostSet, int]
    ) -> dict[CascadeRef, Mapping[HostSet, float]]:
        mean = sum(seen.known.problem.weight for seen in sharing) / len(sharing)
        users = [user_of(seen, self._rates[seen.ref] + backlog_prompts(seen), mean_weight=mean) for seen in sharing]
        found = best_on_sets(users, hosts)
        spare = Counter({each: float(count) for each, count in hosts.items()})
        for got in found:
            spare.subtract(got.time)
        there = {each: [seen.ref for seen in sharing if seen.known.own(each).weights] for each in hosts}
        parts: dict[CascadeRef, Mapping[HostSet, float]] = {}
        for seen, got in zip(sharing, found, strict=True):
            own: defaultdict[HostSet, float] = defaultdict(float)
            for each in hosts:
                if seen.ref in there[each]:
                    own[seen.known.own(each)] += got.time.get(each, 0.0) + max(spare[each], 0.0) / len(there[each])
            parts[seen.ref] = own
        return parts

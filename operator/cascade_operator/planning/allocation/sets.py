"""Which sets of weights workers host where not all fit, and how many of each: one integer program. Pure.

One or several cascades use the workers. Let S be the sets of weights that fit on a worker and leave no room for another
one. With n_S workers that host S, and for each cascade c its demand λ, shares s of its rows, and flows f(v, S) of
accelerator seconds per second:

    for each c:   Σ s + shed = 1,   λ · work of v = Σ_S f(v, S),   Σ_v Σ_S f(v, S) ≤ most_c · ρ_c
    for each S:   Σ_c Σ_v f(v, S) / ρ_c ≤ n_S
    together:     Σ_S n_S ≤ workers

maximise Σ_c weight·(Σ s·gain - price·shed), less what loads cost. Where a cascade has a floor, Σ s·gain counts up to
it, and its work has a small price. With the n_S given it is a linear program, which says
what workers that are ready serve best.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from .frontier import Mixture, Portion, Row
from .hull import HostSet, Hull, upper_hull
from .mixtures import NOTHING
from .programs import LinearProgram, Solution, up_to_floor
from .stages import SHED_PRICE

LEAST_WORKERS_PRICE: Final = 1e-4
"""Normalised quality given up for one worker fewer."""
LEAST_WORK_PRICE: Final = 1e-4
"""Normalised quality given up by a cascade with a floor for all work that its dearest row would take."""


@dataclass(frozen=True)
class Weighed:
    """Weights: their digest, the variants that use them, and the memory that they take on a worker.

    ``components`` are parts that other weights use too, by name, with the memory of each; a worker holds them once.
    ``known`` says that the memory was measured for the weights, and not for a whole worker.
    """

    digest: str
    variants: tuple[str, ...]
    memory_mib: int
    components: Mapping[str, int] = field(default_factory=dict)
    known: bool = False

    @property
    def total_mib(self) -> int:
        """What a worker needs that hosts nothing else."""
        return needed_mib([self])


def needed_mib(weights: Sequence[Weighed]) -> int:
    """The memory that weights take together on a worker, with each of their components once."""
    components = {name: size for each in weights for name, size in each.components.items()}
    return sum(each.memory_mib for each in weights) + sum(components.values())


def maximal_sets(weights: Sequence[Weighed], memory_mib: int, accelerator_class: str) -> tuple[HostSet, ...]:
    """What workers can host: the sets of weights that fit and have no room for more; all of them with a memory of 0."""
    if not memory_mib or needed_mib(weights) <= memory_mib:
        return (HostSet.of((each.digest for each in weights), accelerator_class),)
    fitting = [
        frozenset(each.digest for each in chosen)
        for count in range(1, len(weights) + 1)
        for chosen in combinations(weights, count)
        if needed_mib(chosen) <= memory_mib
    ]
    maximal = [one for one in fitting if not any(one < other for other in fitting)]
    return tuple(sorted(HostSet.of(digests, accelerator_class) for digests in maximal))


def work_of(hull: Hull, row: Row) -> Mapping[str, float]:
    """Accelerator seconds per prompt that a row takes of each of its variants."""
    return hull.works[row]


@dataclass(frozen=True)
class User:
    """A cascade that uses workers: its ``hull``, what a prompt by each of its ``rows`` is worth, and its ``demand``.

    Workers may be busy for it to the part ``utilisation``. It gets at most ``most`` workers' worth of work, and its
    quality counts by ``weight`` against that of others.
    """

    hull: Hull
    rows: Mapping[Row, float]
    demand: float
    utilisation: float
    weight: float = 1.0
    most: float = math.inf


def useful_rows(hull: Hull) -> dict[Row, float]:
    """The rows that no mixture of others replaces with some of the weights, and what a prompt by each is worth.

    There are fewer of them than `Hull.rows`, which a program for many cascades needs.
    """
    digests = sorted(set(hull.weights.values()))
    found: dict[Row, float] = {}
    for count in range(1, len(digests) + 1):
        for chosen in combinations(digests, count):
            points = [
                (sum(work.values()), gain, row)
                for row, gain in hull.rows.items()
                for work in (work_of(hull, row),)
                if all(hull.weights[variant] in chosen for variant in work)
            ]
            found |= {row: gain for _, gain, row in upper_hull(points, cost=lambda p: p[0], worth=lambda p: p[1])}
    return found


@dataclass(frozen=True)
class OnSets:
    """A cascade's mixture of what is served, the share shed, its gain, and its workers' worth of time by set."""

    mixture: Mixture
    shed: float
    gain: float
    time: Mapping[HostSet, float] = field(default_factory=dict)


def best_on_sets(users: Sequence[User], workers: Mapping[HostSet, float]) -> list[OnSets]:
    """The best mixture of each cascade on workers that are there, by set."""
    program = LinearProgram(integer=False)
    added = [_add(program, user, sorted(workers)) for user in users]
    for hosts, count in workers.items():
        program.at_most(_taken(added, hosts), count)
    solution = program.solve()
    return [each.read(solution) for each in added]


def allocate_on_sets(
    users: Sequence[User],
    sets: Sequence[HostSet],
    *,
    least: int,
    most: int,
    running: Mapping[HostSet, int],
    load_price: Mapping[str, float],
    seed: int = 0,
) -> tuple[dict[HostSet, int], list[OnSets]]:
    """How many workers host each of ``sets``, from ``least`` to ``most`` together, and what each cascade gets of them.

    ``running`` counts workers by what they host now, and ``load_price`` is what loading weights must gain, by digest.
    """
    program = LinearProgram(integer=True, seed=seed)
    counts = {s: program.variable(value=-LEAST_WORKERS_PRICE, upper=most, integer=True) for s in sets}
    added = [_add(program, user, sets) for user in users]
    for hosts, count in counts.items():
        program.at_most({**_taken(added, hosts), count: -1.0}, 0.0)
    _pay_for_loads(program, counts, running=running, load_price=load_price)
    program.at_most(dict.fromkeys(counts.values(), 1.0), most)
    program.at_least(dict.fromkeys(counts.values(), 1.0), min(least, most))
    solution = program.solve()
    found = {s: round(solution.values[count]) for s, count in counts.items()} if solution.values else {}
    return {s: count for s, count in found.items() if count}, [each.read(solution) for each in added]


def _pay_for_loads(
    program: LinearProgram,
    counts: Mapping[HostSet, int],
    *,
    running: Mapping[HostSet, int],
    load_price: Mapping[str, float],
) -> None:
    """Price the weights that workers must load: each comes from one of the running sets, or from nothing."""
    comes: dict[HostSet, dict[int, float]] = {hosts: {} for hosts in counts}
    for before in [*sorted(running), None]:
        leaves: dict[int, float] = {}
        for after in counts:
            new = set(after.weights) - set(before.weights if before is not None else ())
            price = sum(load_price.get(digest, 0.0) for digest in new)
            moved = program.variable(value=-price, upper=1e6)
            leaves[moved] = comes[after][moved] = 1.0
        if before is not None:
            program.at_most(leaves, running[before])
    for hosts, count in counts.items():
        program.equal({**comes[hosts], count: -1.0}, 0.0)


@dataclass(frozen=True)
class _Added:
    """A cascade's variables in a program: shares of its rows, the share shed, and flows by (variant, set)."""

    user: User
    shares: Mapping[Row, int]
    shed: int
    flows: Mapping[tuple[str, HostSet], int]

    def read(self, solution: Solution) -> OnSets:
        """What the cascade gets by a solution; everything is shed where there is none."""
        if not solution.values:
            return OnSets((), 1.0, 0.0)
        found = {row: solution.values[share] for row, share in self.shares.items()}
        served = sum(amount for amount in found.values() if amount > NOTHING)
        if not served:
            return OnSets((), 1.0, 0.0)
        mixture = tuple(Portion(amount / served, row) for row, amount in found.items() if amount > NOTHING)
        gain = min(sum(portion.share * self.user.rows[portion.row] for portion in mixture), self.user.hull.floor)
        time: defaultdict[HostSet, float] = defaultdict(float)
        for (_, hosts), flow in self.flows.items():
            time[hosts] += solution.values[flow] / self.user.utilisation
        return OnSets(mixture, max(solution.values[self.shed], 0.0), gain, time)


def _add(program: LinearProgram, user: User, sets: Sequence[HostSet]) -> _Added:
    """Add a cascade to a program whose workers host ``sets``."""
    hull = user.hull
    floored = hull.floor < math.inf
    shares = {row: program.variable(value=0.0 if floored else user.weight * gain) for row, gain in user.rows.items()}
    dearest_s = max((sum(work_of(hull, row).values()) for row in user.rows), default=0.0)
    price = user.weight * LEAST_WORK_PRICE / (user.demand * dearest_s or 1.0) if floored else 0.0
    if floored:
        gains = {share: user.rows[row] for row, share in shares.items()}
        up_to_floor(program, gains, floor=hull.floor, weight=user.weight)
    shed = program.variable(value=-user.weight * SHED_PRICE)
    program.equal(dict.fromkeys([*shares.values(), shed], 1.0), 1.0)
    flows: dict[tuple[str, HostSet], int] = {}
    needs: defaultdict[str, dict[int, float]] = defaultdict(dict)
    hosted = {digest for each in sets for digest in each.weights}
    for row, share in shares.items():
        for variant, seconds in work_of(hull, row).items():
            # Where no worker hosts the variant of a tier, such requests are made as the plan says.
            beside = 0.0 if hull.weights[variant] in hosted else hull.tier_work.get(variant, 0.0)
            if seconds - beside > NOTHING:
                needs[variant][share] = user.demand * (seconds - beside)
    for variant in sorted(needs):
        own = {
            (variant, s): program.variable(value=-price, upper=1e6) for s in sets if hull.weights[variant] in s.weights
        }
        flows |= own
        program.equal({**needs[variant], **dict.fromkeys(own.values(), -1.0)}, 0.0)
    if flows and user.most < math.inf:
        program.at_most(dict.fromkeys(flows.values(), 1.0), user.most * user.utilisation)
    return _Added(user, shares, shed, flows)


def _taken(added: Sequence[_Added], hosts: HostSet) -> dict[int, float]:
    """The flows of all cascades to workers that host a set, each in workers' worth of work."""
    return {flow: 1 / each.user.utilisation for each in added for (_, on), flow in each.flows.items() if on == hosts}

"""Which sets of variants workers host where not all fit, and how many of each: one integer program. Pure.

Let S be the sets of variants that fit on a worker and leave no room for another one. With demand λ, shares s of the
rows, n_S workers that host S, and flows f(v, S) of accelerator seconds per second:

    Σ s + shed = 1,   λ · work of v = Σ_S f(v, S),   Σ_v f(v, S) ≤ n_S · ρ,   Σ_S n_S ≤ workers

maximise Σ s·gain - price·shed, less what loads cost. With the n_S given it is a linear program, which says what workers
that are ready serve best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from .frontier import Mixture, Portion, Row
from .hull import HostSet, Hull
from .mixtures import NOTHING
from .programs import LinearProgram, Solution
from .stages import SHED_PRICE, Role

LEAST_WORKERS_PRICE: Final = 1e-4
"""Normalised quality given up for one worker fewer."""


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


def work_of(hull: Hull, row: Row) -> dict[str, float]:
    """Accelerator seconds per prompt that a row takes of each of its variants."""
    work: defaultdict[str, float] = defaultdict(float)
    if row.light_load:
        work[row.light] += row.light_load * hull.services[row.light, Role.LIGHT].p50_s
    if row.heavy_load:
        work[row.heavy] += row.heavy_load * hull.services[row.heavy, Role.HEAVY].p50_s
    return work


@dataclass(frozen=True)
class OnSets:
    """A mixture of what is served, the share shed, its gain, and the workers by set."""

    mixture: Mixture
    shed: float
    gain: float
    workers: Mapping[HostSet, int]


def best_on_sets(
    hull: Hull,
    rows: Mapping[Row, float],
    *,
    demand: float,
    utilisation: float,
    workers: Mapping[HostSet, int],
) -> OnSets:
    """The best mixture on workers that are there, by set; ``rows`` says what a prompt by each is worth."""
    program = LinearProgram(integer=False)
    shares, shed, flows = _add(program, hull, rows, sorted(workers), demand=demand)
    for hosts, count in workers.items():
        own = {flow: 1.0 for (_, on), flow in flows.items() if on == hosts}
        program.at_most(own, utilisation * count)
    return _read(program.solve(), shares, shed, rows, workers)


def allocate_on_sets(
    hull: Hull,
    rows: Mapping[Row, float],
    sets: Sequence[HostSet],
    *,
    demand: float,
    utilisation: float,
    least: int,
    most: int,
    running: Mapping[HostSet, int],
    load_price: Mapping[str, float],
    seed: int = 0,
) -> OnSets:
    """How many workers host each of ``sets``, from ``least`` to ``most`` together.

    ``running`` counts workers by what they host now, and ``load_price`` is what loading weights must gain, by digest.
    """
    program = LinearProgram(integer=True, seed=seed)
    counts = {s: program.variable(value=-LEAST_WORKERS_PRICE, upper=most, integer=True) for s in sets}
    shares, shed, flows = _add(program, hull, rows, sets, demand=demand)
    for hosts, count in counts.items():
        own = {flow: 1.0 for (_, on), flow in flows.items() if on == hosts}
        program.at_most({**own, count: -utilisation}, 0.0)
    _pay_for_loads(program, counts, running=running, load_price=load_price)
    program.at_most(dict.fromkeys(counts.values(), 1.0), most)
    program.at_least(dict.fromkeys(counts.values(), 1.0), min(least, most))
    solution = program.solve()
    found = {s: round(solution.values[count]) for s, count in counts.items()} if solution.values else {}
    return _read(solution, shares, shed, rows, {s: count for s, count in found.items() if count})


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


def _add(
    program: LinearProgram,
    hull: Hull,
    rows: Mapping[Row, float],
    sets: Sequence[HostSet],
    *,
    demand: float,
) -> tuple[dict[Row, int], int, dict[tuple[str, HostSet], int]]:
    """Shares of the rows, the share shed, and flows by (variant, set)."""
    shares = {row: program.variable(value=gain) for row, gain in rows.items()}
    shed = program.variable(value=-SHED_PRICE)
    program.equal(dict.fromkeys([*shares.values(), shed], 1.0), 1.0)
    flows: dict[tuple[str, HostSet], int] = {}
    needs: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for row, share in shares.items():
        for variant, seconds in work_of(hull, row).items():
            needs[variant][share] = demand * seconds
    for variant in sorted(needs):
        own = {(variant, s): program.variable(upper=1e6) for s in sets if hull.weights[variant] in s.weights}
        flows |= own
        program.equal({**needs[variant], **dict.fromkeys(own.values(), -1.0)}, 0.0)
    return shares, shed, flows


def _read(
    solution: Solution, shares: Mapping[Row, int], shed: int, rows: Mapping[Row, float], workers: Mapping[HostSet, int]
) -> OnSets:
    if not solution.values:
        return OnSets((), 1.0, 0.0, {})
    found = {row: solution.values[share] for row, share in shares.items()}
    served = sum(amount for amount in found.values() if amount > NOTHING)
    if not served:
        return OnSets((), 1.0, 0.0, workers)
    mixture = tuple(Portion(amount / served, row) for row, amount in found.items() if amount > NOTHING)
    gain = sum(portion.share * rows[portion.row] for portion in mixture)
    return OnSets(mixture, max(solution.values[shed], 0.0), gain, workers)

"""Which replicas to run at which batch size: a mixed-integer program for all cascades that compete.

Each cascade chooses one chain. The shares of its rows are continuous variables; the replicas x of each column (a
variant in one role, on one class, at one batch size; see `stages`) are integers. The program maximises, over cascades,

    weight·(Σ gain·share - SHED_PRICE·shed - Σ switch price·starts) - small prices for accelerators and batches

subject to, for each stage, with μ the rate of a replica per prompt of the demand and δ its reserve,

    load ≤ utilisation·Σ μx    and    load ≤ Σ μ(x - δ)

and to the accelerators that exist, the ceilings of each cascade, and the minima that users set. The sizes of the prices
put the aims in order: first, everything that can be served is served; second, quality, less the price of switches and
of accelerator time; last, the fewest accelerators.

A cascade with a floor gains by quality up to its floor only (`up_to_floor`), so that it takes no more accelerators.

There is always an answer. If the load is too high for good quality, the rows of least load are all that fits; if even
that is too much, a part of the load is shed. The verdict of the `Allocation` says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason

from .contenders import Contender, contenders
from .fluid import allocate_fluid
from .frontier import NO_TIERS
from .problem import Allocation, AllocationProblem, CascadeProblem, Placement, PoolKey, PoolSize
from .programs import LinearProgram, Solution, SolveStatus, up_to_floor
from .shares import Sharing, best_sharing, tier_loads
from .splits import Dues
from .stages import SHED_PRICE, Column, Role
from .verdicts import allocation_of, verdict_of

ACCELERATOR_PRICE = 1e-4
"""Normalised quality given up to save one accelerator of the dearest class. It is small: this is the last aim."""
PRICED_ACCELERATORS = 100
"""With more accelerators than this, each has a lower price, so that all together do not outweigh quality."""
KEEP_REWARD = 1e-6
"""Reward for keeping a running replica on an accelerator that costs nothing."""
FIRST_START_PRICE = 1e-5
"""Price of a start while nothing runs. It is tiny, since a start is unavoidable then; it prevents needless starts."""
BATCH_PRICE = 1e-5
"""Price of each doubling of a pool's batch size: images are ready sooner with the smallest batch that suffices."""
SHORTAGE_PRICE = 1000.0
"""Price of each worker below ``min`` or ``minHosts``: only the ceilings come before a user's minimum."""
SHARED_GAP = 1e-3
"""How far the allocation of several cascades may be from the best (relative); that of one cascade is exact."""
LIKELY_NODES, ALL_NODES = 2000, 200
"""Node limits for several cascades: for the search over the likely chains, and for the larger one over all chains."""
_NOTHING = 1e-6


@dataclass
class _Variables:
    """The numbers of one cascade's variables in the program."""

    problem: CascadeProblem
    chains: list[int] = field(default_factory=list)
    """For each candidate chain, the variable that is 1 if it is chosen."""
    columns: list[tuple[int, int, Column]] = field(default_factory=list)
    """(replicas, in use, column)"""
    spare: dict[PoolKey, int] = field(default_factory=dict)
    starts: dict[PoolKey, int] = field(default_factory=dict)

    def pools(self) -> dict[PoolKey, list[int]]:
        """Replica variables by pool, including those of spare replicas."""
        found: dict[PoolKey, list[int]] = {key: [v] for key, v in self.spare.items()}
        for replicas, _, column in self.columns:
            found.setdefault((column.variant, column.accelerator_class), []).append(replicas)
        return found


def allocate(problem: AllocationProblem) -> dict[CascadeRef, Allocation]:
    """The best allocation of every cascade, within the ceilings of the cluster and of each cascade.

    Cascades whose workers host several variants (`hull`) get the accelerators that dedicated workers leave.
    """
    fluid = [(cascade, cascade.hull) for cascade in problem.cascades if cascade.hull is not None]
    dedicated = tuple(cascade for cascade in problem.cascades if cascade.hull is None)
    found = _allocate_dedicated(replace(problem, cascades=dedicated)) if dedicated else {}
    if fluid:
        left = Counter(problem.accelerators)
        for allocation in found.values():
            for (_, name), size in allocation.pools.items():
                left[name] -= size.replicas
        found |= allocate_fluid(problem, fluid, left=left)
    return found


def _allocate_dedicated(problem: AllocationProblem) -> dict[CascadeRef, Allocation]:
    if len(problem.cascades) == 1:
        (cascade,) = problem.cascades
        program, built = _program(problem, [_contenders(cascade, problem)])
        solution = program.solve()
    else:
        built, solution = _shared(problem)
    return {v.problem.ref: _read(v, problem, solution) for v in built}


def _shared(problem: AllocationProblem) -> tuple[list[_Variables], Solution]:
    """The allocation of several cascades, within `SHARED_GAP` of the best.

    A linear relaxation shows which chains share the accelerators best, and gives an upper bound. So the program first
    contains only these chains. If its answer is not close enough to the bound, it is solved again with all chains.
    """
    chains = [cascade.stages for cascade in problem.cascades]
    program, built = _program(problem, [[Contender(s.relaxed) for s in own] for own in chains], integer=False)
    relaxed = program.solve()
    if relaxed.status is SolveStatus.OPTIMAL:
        likely = [
            [Contender(s) for s, chosen in zip(own, v.chains, strict=True) if relaxed.values[chosen] > _NOTHING]
            for own, v in zip(chains, built, strict=True)
        ]
        program, built = _program(problem, likely)
        solution = program.solve(gap=SHARED_GAP, nodes=LIKELY_NODES)
        if solution.values and relaxed.objective - solution.objective <= SHARED_GAP * abs(relaxed.objective):
            return built, replace(solution, bound=relaxed.objective)
    program, built = _program(problem, [[Contender(s) for s in own] for own in chains])
    return built, program.solve(gap=SHARED_GAP, nodes=ALL_NODES)


def _program(
    problem: AllocationProblem, candidates: Sequence[Sequence[Contender]], *, integer: bool = True
) -> tuple[LinearProgram, list[_Variables]]:
    """The program with the given candidate chains of each cascade, and its variables by cascade."""
    program = LinearProgram(integer=integer, seed=problem.seed)
    mean_weight = sum(c.weight for c in problem.cascades) / max(len(problem.cascades), 1)
    built = [
        _add_cascade(program, c, problem, own, c.weight / mean_weight)
        for c, own in zip(problem.cascades, candidates, strict=True)
    ]
    for accelerator_class, count in problem.accelerators.items():
        terms = {
            v: 1.0
            for variables in built
            for (_, on), group in variables.pools().items()
            if on == accelerator_class
            for v in group
        }
        if terms:
            program.at_most(terms, count)
    return program, built


def _tax(problem: AllocationProblem) -> float:
    """The price of an accelerator in normalised quality, for each unit of its price per hour."""
    spread = min(1.0, PRICED_ACCELERATORS / max(sum(problem.accelerators.values()), 1))
    return spread * ACCELERATOR_PRICE / (max(problem.prices_per_hour.values(), default=0.0) or 1.0)


def _ceilings(problem: AllocationProblem, cascade: CascadeProblem) -> dict[str, int]:
    """The most accelerators that a cascade may use, by class."""
    return {
        name: min(bounds.ceiling(problem.prices_per_hour.get(name)), problem.accelerators.get(name, 0))
        for name, bounds in cascade.workers.items()
    }


def _contenders(cascade: CascadeProblem, problem: AllocationProblem) -> tuple[Contender, ...]:
    """The candidates that the program of a single cascade needs."""
    if cascade.floor is not None or cascade.tiers != NO_TIERS:
        # What bounds a chain is the best quality that it reaches. A cheaper chain may hold a floor as well, and
        # requests with a tier load the stages besides.
        return tuple(Contender(stages) for stages in cascade.stages)
    ceilings = _ceilings(problem, cascade)
    dearest = max((problem.prices_per_hour.get(name, 0.0) for name in ceilings), default=0.0)
    dues = Dues(_tax(problem) * dearest, first_start=FIRST_START_PRICE, doubling=BATCH_PRICE, kept=KEEP_REWARD)
    return contenders(cascade, ceilings=ceilings, dues=dues)


def _add_cascade(
    program: LinearProgram,
    cascade: CascadeProblem,
    problem: AllocationProblem,
    candidates: Sequence[Contender],
    weight: float,
) -> _Variables:
    variables = _Variables(cascade)
    ceilings = _ceilings(problem, cascade)
    price = {c: problem.prices_per_hour.get(c, 0.0) for c in ceilings}
    tax = _tax(problem)
    for contender in candidates:
        chosen = program.variable(integer=True)
        variables.chains.append(chosen)
        _add_chain(program, variables, contender, chosen, ceilings, weight)
    if candidates:
        program.equal(dict.fromkeys(variables.chains, 1.0), 1.0)
    for name, classes in cascade.classes.items():
        for accelerator_class in classes:
            key = (name, accelerator_class)
            ceiling = ceilings.get(accelerator_class, 0)
            least = max(cascade.min_hosts[name], cascade.workers[accelerator_class].min)
            upper = min(ceiling, max(cascade.running.get(key, 0), least))
            reward = 0.0 if price.get(accelerator_class) else KEEP_REWARD
            variables.spare[key] = program.variable(value=reward, upper=upper, integer=True)
            # While nothing runs, switch prices that differ by pool would only make the pools lopsided.
            first = not any(cascade.running.values())
            start_price = FIRST_START_PRICE if first else cascade.switch_prices.get(key, 0.0)
            variables.starts[key] = program.variable(value=-start_price * weight, upper=max(ceiling, 0))
    pools = variables.pools()
    for (_, accelerator_class), group in pools.items():
        if price.get(accelerator_class):
            # Each replica on a class that has a price costs this tax; only free ones get the reward for staying.
            cost = program.variable(value=-tax * price[accelerator_class], upper=1e6)
            program.equal({cost: 1.0, **dict.fromkeys(group, -1.0)}, 0.0)
    for key, group in pools.items():
        starts = {variables.starts[key]: 1.0, **dict.fromkeys(group, -1.0)}
        program.at_least(starts, -cascade.running.get(key, 0))
    for name, least in cascade.min_hosts.items():
        own = [v for (variant, _), group in pools.items() if variant == name for v in group]
        _at_least(program, own, least)
    for accelerator_class, ceiling in ceilings.items():
        here = [v for (_, on), group in pools.items() if on == accelerator_class for v in group]
        program.at_most(dict.fromkeys(here, 1.0), ceiling)
        _at_least(program, here, cascade.workers[accelerator_class].min)
    return variables


def _at_least(program: LinearProgram, replicas: Sequence[int], least: int) -> None:
    """Add a user's minimum of replicas; it may be missed at a high price, so that there always is a solution."""
    if least:
        shortage = program.variable(value=-SHORTAGE_PRICE, upper=least)
        program.at_least(dict.fromkeys([*replicas, shortage], 1.0), least)


def _add_chain(
    program: LinearProgram,
    variables: _Variables,
    contender: Contender,
    chosen: int,
    ceilings: Mapping[str, int],
    weight: float,
) -> None:
    cascade, stages = variables.problem, contender.stages
    demand = max(cascade.demand, _NOTHING)
    shed = program.variable(value=-SHED_PRICE * weight)
    total, heavy_loads, direct_shares, gains = {chosen: -1.0, shed: 1.0}, {}, {}, {}
    numbers = range(len(stages.chain.rows)) if contender.rows is None else contender.rows
    for row, gain in ((stages.chain.rows[number], stages.gains[number]) for number in numbers):
        share = program.variable(value=weight * gain if cascade.floor is None else 0.0)
        total[share], gains[share] = 1.0, gain
        heavy_loads[share] = cascade.tiers.rest * row.heavy_load
        direct_shares[share] = cascade.tiers.rest * row.direct
    _, tier_heavy, tier_direct = tier_loads(cascade.tiers, stages)
    if cascade.floor is not None:
        up_to_floor(program, gains, floor=cascade.floor, weight=weight)
    heavy, direct = program.variable(), program.variable()
    program.equal(total, 0.0)
    program.equal({heavy: -1.0, **heavy_loads, chosen: tier_heavy, shed: -tier_heavy}, 0.0)
    program.equal({direct: -1.0, **direct_shares, chosen: tier_direct, shed: -tier_direct}, 0.0)

    busy: dict[Role, dict[int, float]] = {role: {} for role in Role}
    waits: dict[Role, dict[int, float]] = {role: {} for role in Role}
    firm: dict[int, float] = {}
    of_role: dict[Role, list[int]] = {role: [] for role in Role}
    boxes = {Role.LIGHT: contender.lights, Role.HEAVY: contender.heavies}
    utilisation = {Role.LIGHT: cascade.light_utilisation, Role.HEAVY: cascade.heavy_utilisation}
    one_batch: dict[PoolKey, dict[int, float]] = {}
    for column in stages.columns if contender.columns is None else contender.columns:
        most = column.enough(demand, utilisation=utilisation[column.role])
        ceiling = min(ceilings.get(column.accelerator_class, 0), most)
        box = boxes[column.role]
        if box is not None:
            ceiling = min(ceiling, box[1])
        if ceiling <= column.reserve:
            continue
        key = (column.variant, column.accelerator_class)
        replicas = program.variable(upper=ceiling, integer=True)
        in_use = program.variable(value=-BATCH_PRICE * math.log2(column.service.batch), integer=True)
        program.at_most({replicas: 1.0, in_use: -float(ceiling)}, 0.0)
        one_batch.setdefault(key, {})[in_use] = 1.0
        runs = min(cascade.running.get(key, 0), ceiling)
        if column.service.batch != cascade.running_batch.get(key, 1):
            runs = 0
        program.hint(replicas, runs)
        program.hint(in_use, min(runs, 1))
        rate = column.rate / demand
        busy[column.role][replicas] = -utilisation[column.role] * rate
        waits[column.role] |= {replicas: -rate, in_use: column.reserve * rate}
        of_role[column.role].append(replicas)
        if column.role is Role.HEAVY:
            firm |= {replicas: -rate, in_use: column.direct_reserve * rate}
        variables.columns.append((replicas, in_use, column))
    for uses in one_batch.values():
        program.at_most({**uses, chosen: -1.0}, 0.0)
    for role, box in boxes.items():
        if box is not None:
            fewest, most = box
            program.at_least({**dict.fromkeys(of_role[role], 1.0), chosen: -float(fewest)}, 0.0)
            program.at_most({**dict.fromkeys(of_role[role], 1.0), chosen: -float(most)}, 0.0)
    # Everything that is neither shed nor direct goes to the light stage.
    light = {chosen: 1.0, shed: -1.0, direct: -1.0}
    for loads, role in ((light, Role.LIGHT), ({heavy: 1.0}, Role.HEAVY)):
        program.at_most({**loads, **busy[role]}, 0.0)
        program.at_most({**loads, **waits[role]}, 0.0)
    # The direct reserve matters only without a light stage: with one, it makes the image if the heavy one is too late.
    slack = sum(factor for factor in firm.values() if factor > 0)
    program.at_most({direct: 1.0, **firm, **dict.fromkeys(of_role[Role.LIGHT], -slack)}, 0.0)


def _read(variables: _Variables, problem: AllocationProblem, solution: Solution) -> Allocation:
    cascade = variables.problem
    if not solution.values or not cascade.stages:
        return Allocation(cascade.ref, (), {}, 1.0, 0.0, Reason.NO_CAPACITY, binding=("nothing can be allocated",))
    pools: dict[PoolKey, PoolSize] = {}
    for replicas, _, column in variables.columns:
        count = round(solution.values[replicas])
        if count:
            pools[column.variant, column.accelerator_class] = PoolSize(count, column.service.batch)
    spare = {key: round(solution.values[variable]) for key, variable in variables.spare.items()}
    for key, count in sorted(_where_of_use(cascade, pools, spare).items()):
        if count:
            used = pools.get(key, PoolSize(0, cascade.running_batch.get(key, 1)))
            pools[key] = PoolSize(used.replicas + count, used.batch)
    # The program's shares may be any optimal point; those of `best_sharing` are a vertex, so at most three rows.
    sharing = best_sharing(cascade, pools)
    workers = Counter[str]()
    for (_, name), pool in pools.items():
        workers[name] += pool.replicas
    return allocation_of(
        problem,
        cascade,
        sharing,
        _verdict(cascade, pools, sharing, solution.status),
        pools=pools,
        workers=workers,
        switches=sum(max(pool.replicas - cascade.running.get(key, 0), 0) for key, pool in pools.items()),
        gap=max(solution.bound - solution.objective, 0.0) / max(abs(solution.bound), _NOTHING),
    )


def _where_of_use(
    cascade: CascadeProblem, pools: Mapping[PoolKey, PoolSize], spare: Mapping[PoolKey, int]
) -> dict[PoolKey, int]:
    """The spare replicas to keep by pool: those that cost nothing, preferably of variants that are in use.

    Spare replicas of variants in use help when more requests arrive than forecast.
    """
    kept = Counter(spare)
    for idle in sorted(spare.keys() - pools.keys()):
        if cascade.min_hosts[idle[0]]:
            continue
        for used, pool in pools.items():
            if used[1] == idle[1]:
                still = cascade.running.get(used, 0) - pool.replicas - kept[used]
                moved = max(min(kept[idle], still), 0)
                kept[idle] -= moved
                kept[used] += moved
    return kept


def _verdict(
    cascade: CascadeProblem, pools: Mapping[PoolKey, PoolSize], sharing: Sharing, status: SolveStatus
) -> Reason:
    found = verdict_of(cascade, sharing, Placement(pools=pools))
    limited = status is SolveStatus.LIMITED and found not in (Reason.NO_CAPACITY, Reason.LOAD_SHED)
    return Reason.SOLVER_LIMIT if limited else found

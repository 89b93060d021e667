"""The third stage of a decision: which pools each cascade should have (its target).

Pools are decided again every few ticks. They are decided at once if the spec, the profile or the accelerators changed,
or in an emergency: demand rose or a queue grew so far that the present target cannot carry it. One allocation then
decides for all cascades that compete for accelerators. It is made for the demand that is forecast for the time when new
pools serve, plus the rate that clears what waits:

    demand = pool_rate + Σ over variants of (waiting / half an objective) / (share of the prompts that reach it)

The division turns images of a variant into prompts. For example, if half of the prompts reach the heavy variant, a
backlog of 1 heavy image per second is as much work for it as 2 prompts per second.

Smaller pools are refused if the load may return before they could grow again, and if they could not serve a demand
that is three Poisson standard deviations above the forecast. The constants were chosen on generated traces, and on the
published ones with one to three seeds (docs/benchmarks/policies.md says on which, and what each constant gains).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason
from cascade_api.settings import PlannerSettings

from ..snapshot import Snapshot
from .allocation import (
    Allocation,
    AllocationProblem,
    CascadeProblem,
    HostSet,
    PoolKey,
    PoolSize,
    allocate_on_pool,
    groups,
    holds_floor,
    on_hosts,
    verdict_of,
)
from .arrivals import bounded_window_s
from .division import Divisions, backlog_prompts, user_of
from .forecast import Forecast
from .memory import CascadeMemory, FloorTarget, Target, target_hosts, target_pools
from .observed import Observed
from .policies import PlanningPolicy, joint
from .shared_pools import SharedPool

EMERGENCY_DEMAND_RATIO: Final = 1.1
"""If demand exceeds that of the last decision by this factor, an emergency may decide again at once."""
EMERGENCY_WANTED_RATIO: Final = 1.5
"""The same for demand plus backlog, which fluctuates more."""
EMERGENCY_PAUSE_TICKS: Final = 4
"""Ticks between two emergency decisions if demand does not rise."""
LIGHT_BACKLOG_OBJECTIVES: Final = 1 / 8
"""A light pool's queue is an emergency if serving it takes more than this part of the objective."""
DIRECT_BACKLOG_OBJECTIVES: Final = 1 / 4
"""The same for a pool that prompts reach directly, without a light image that could be the answer."""
CHANCE_DEMAND_SIGMAS: Final = 3.0
"""Poisson standard deviations by which demand may exceed its forecast by chance."""
AFTER_SURGE_OBJECTIVES: Final = 10.0
"""For this many objectives after a surge, another one is expected."""
NEGLIGIBLE_SHED_SHARE: Final = 0.01
"""Share of the demand that is too small to keep larger pools for."""
PASSING: Final = frozenset({Reason.LOAD_SHED, Reason.QUALITY_SHED, Reason.DEGRADING})
"""Verdicts that end with the load that they were given for."""
RENEWED: Final = (Reason.SPEC_CHANGED, Reason.PROFILE_CHANGED, Reason.PROFILE_CORRECTED)
"""Reasons that are reported for a decision even if it leaves the pools as they were."""


@dataclass(frozen=True)
class TargetDecision:
    """The pools that one cascade should have after this tick.

    ``reason`` says why the target last changed; ``news`` says the same if it changed in this tick, and is None
    otherwise. ``allocation`` is the answer that was adopted in this tick (None: pools were not decided).
    """

    target: Target | None
    reason: Reason
    parked: bool
    news: Reason | None = None
    allocation: Allocation | None = None

    @property
    def sizes(self) -> dict[PoolKey, PoolSize]:
        """Replicas and batch size by pool."""
        return self.target.sizes if self.target is not None else {}

    @property
    def workers(self) -> dict[HostSet, int]:
        """Workers by what they should host."""
        return self.target.workers if self.target is not None else {}


class Allocations:
    """Remembers the policy's last answer for each group of cascades, and repeats it while the question is the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[CascadeRef, ...], tuple[AllocationProblem, Mapping[CascadeRef, Allocation]]] = {}

    def of(self, problem: AllocationProblem, decides: PlanningPolicy) -> Mapping[CascadeRef, Allocation]:
        """The allocation of every cascade of a problem, by the policy ``decides``."""
        rivals = tuple(cascade.ref for cascade in problem.cascades)
        known = self._known.get(rivals)
        if known is None or known[0] != problem:
            known = self._known[rivals] = problem, decides.allocate(problem)
        return known[1]

    def keep_only(self, refs: set[CascadeRef]) -> None:
        """Forget cascades that are gone."""
        self._known = {rivals: kept for rivals, kept in self._known.items() if refs.issuperset(rivals)}


def judged(
    observed: Sequence[Observed],
    forecasts: Mapping[CascadeRef, Forecast],
    targets: Mapping[CascadeRef, TargetDecision],
    division: Divisions,
) -> dict[CascadeRef, TargetDecision]:
    """The targets, each with a verdict for the load of now."""
    return {
        seen.ref: _judged(seen, forecasts[seen.ref], targets[seen.ref], division) if seen.decides else targets[seen.ref]
        for seen in observed
    }


def _judged(seen: Observed, expected: Forecast, decided: TargetDecision, division: Divisions) -> TargetDecision:
    """The decision, without a verdict that is about more load than there is now.

    Workers are decided for the load of the time when they serve, and not again at every tick. When the load has fallen,
    that one of its parts is shed would be said of load that is gone.
    """
    target = decided.target
    if target is None or target.verdict not in PASSING:
        return decided
    placement = division.allocated(seen, target.workers, target.sizes)
    sharing = seen.known.share(placement, demand=expected.rate)
    verdict = verdict_of(seen.known.at(expected.rate), sharing, placement)
    if verdict is target.verdict or verdict not in (*PASSING, Reason.OPTIMAL):
        return decided
    return replace(decided, target=replace(target, verdict=verdict))


def decide_targets(
    observed: Sequence[Observed],
    forecasts: Mapping[CascadeRef, Forecast],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    *,
    pools: Sequence[SharedPool],
    division: Divisions,
    prices_per_hour: Mapping[str, float],
    allocations: Allocations,
) -> dict[CascadeRef, TargetDecision]:
    """The target of every cascade; one that is not decided now keeps its last target.

    A WorkerPool is decided for all of its cascades when one of them is due. It gets the accelerators that no other
    pool uses now, and leaves its own to no other.
    """
    decided = {seen.ref: _parked(seen, now) if seen.decides and seen.idle else _kept(seen) for seen in observed}
    for pool in pools:
        for view in (pool, *pool.advice):
            decided |= _on_pool(view, forecasts, snapshot, now, settings, division, prices_per_hour)
    planned = [seen for seen in observed if seen.decides and not seen.idle and seen.pool is None]
    due = {seen.ref: _due(seen, forecasts[seen.ref], snapshot, now, settings, division) for seen in planned}
    ours = {worker.id for seen in planned for worker in seen.workers}
    others = Counter(worker.accelerator_class for worker in snapshot.workers if worker.id not in ours)
    inventory = {name: max(count - others[name], 0) for name, count in (snapshot.inventory or {}).items()}
    if not any(due.values()):
        return decided
    for indices in groups([seen.known.spec.accelerators for seen in planned], inventory):
        rivals = [planned[index] for index in indices]
        if not any(due[seen.ref] for seen in rivals):
            continue
        problems = tuple(_pool_problem(seen, forecasts[seen.ref], due[seen.ref], now) for seen in rivals)
        decides = joint(seen.known.policy for seen in rivals)
        answers = allocations.of(AllocationProblem(problems, inventory, prices_per_hour, settings.seed), decides)
        for seen, problem in zip(rivals, problems, strict=True):
            answer, reason, expected = answers[seen.ref], due[seen.ref], forecasts[seen.ref]
            if reason is Reason.DEMAND_FELL and _too_tight(seen, expected, answer, now, settings, division):
                # The pools stay, and so does the demand that they were decided for.
                last = seen.memory.target or Target()
                answer = replace(answer, pools=last.sizes, hosts=last.workers)
                problem = replace(problem, demand=max(problem.demand, last.demand))
            decided[seen.ref] = _adopted(seen, expected, problem, answer, reason, snapshot, now)
    return decided


def _on_pool(
    pool: SharedPool,
    forecasts: Mapping[CascadeRef, Forecast],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    division: Divisions,
    prices_per_hour: Mapping[str, float],
) -> dict[CascadeRef, TargetDecision]:
    """The targets of the cascades of a WorkerPool that ask for them if it is due to be decided; empty if not."""
    due = {seen.ref: _due(seen, forecasts[seen.ref], snapshot, now, settings, division) for seen in pool.asking}
    if any(seen.target.pool_print != pool.print for seen in pool.asking):
        due = {ref: reason or Reason.CAPACITY_CHANGED for ref, reason in due.items()}
    if not any(due.values()):
        return {}
    name, known = pool.spec.accelerator_class, pool.asking[0].target
    elsewhere = sum(1 for w in snapshot.workers if w.pool != pool.ref and w.accelerator_class == name)
    there = max((snapshot.inventory or {}).get(name, 0) - elsewhere, 0)
    problems = {seen.ref: _pool_problem(seen, forecasts[seen.ref], due.get(seen.ref), now) for seen in pool.planned}
    hosts = _pool_hosts(pool, problems, most=min(pool.most, there))
    bounds = {name: pool.bounds}
    question = AllocationProblem((), {name: there}, prices_per_hour, settings.seed)

    def answer(seen: Observed, wanted: Mapping[HostSet, int]) -> Allocation:
        problem = replace(problems[seen.ref], workers=bounds)
        return on_hosts(question, problem, wanted, division.allocated(seen, wanted, seen.target_sizes))

    answers = {seen.ref: answer(seen, hosts) for seen in pool.asking}
    if known.pool_print == pool.print and set(due.values()) <= {Reason.DEMAND_FELL, None}:
        tight = (
            _too_tight(seen, forecasts[seen.ref], answers[seen.ref], now, settings, division) for seen in pool.asking
        )
        if any(tight):
            # The hosts stay, and so does the demand that they were decided for.
            answers = {seen.ref: answer(seen, known.workers) for seen in pool.asking}
            problems = {
                seen.ref: replace(p, demand=max(p.demand, seen.target.demand))
                for seen in pool.asking
                for p in (problems[seen.ref],)
            }
    found = {}
    for seen in pool.asking:
        expected, problem = forecasts[seen.ref], problems[seen.ref]
        adopted = _adopted(seen, expected, problem, answers[seen.ref], due[seen.ref], snapshot, now)
        target = adopted.target and replace(adopted.target, pool_print=pool.print)
        found[seen.ref] = replace(adopted, target=target)
    return found


def _pool_hosts(pool: SharedPool, problems: Mapping[CascadeRef, CascadeProblem], *, most: int) -> Mapping[HostSet, int]:
    """What the workers of a WorkerPool should host for the demands of the ``problems``."""
    mean = sum(problem.weight for problem in problems.values()) / len(problems)
    name = pool.spec.accelerator_class
    load_price: dict[str, float] = {}
    min_hosts: dict[str, int] = {}
    for seen in pool.planned:
        problem = problems[seen.ref]
        for variant, digest in seen.known.weights.items():
            price = problem.weight / mean * problem.switch_prices.get((variant, name), 0.0)
            load_price[digest] = max(load_price.get(digest, 0.0), price)
            min_hosts[digest] = max(min_hosts.get(digest, 0), problem.min_hosts[variant])
    used = {digest for seen in pool.planned for digest in seen.known.variants_with}
    return allocate_on_pool(
        [user_of(seen, problems[seen.ref].demand, mean_weight=mean) for seen in pool.planned],
        [each for digest, each in pool.weights.items() if digest in used],
        memory_mib=pool.memory_mib,
        accelerator_class=name,
        most=most,
        least=pool.bounds.min,
        min_hosts=min_hosts,
        running=pool.running,
        load_price=load_price,
    ).workers


def _kept(seen: Observed) -> TargetDecision:
    memory = seen.memory
    return TargetDecision(memory.target, memory.reason, memory.parked)


def _parked(seen: Observed, now: float) -> TargetDecision:
    """The target of an idle cascade: no replicas."""
    target = replace(
        seen.memory.target or Target(),
        pools=(),
        hosts=(),
        verdict=Reason.OPTIMAL,
        binding=(),
        cost_per_hour=0.0,
        decided_at_s=now,
        demand=0.0,
        floor=None,
    )
    return TargetDecision(target, Reason.PARKED, parked=True, news=None if seen.memory.parked else Reason.PARKED)


def _due(
    seen: Observed,
    expected: Forecast,
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    division: Divisions,
) -> Reason | None:
    """Why pools must be decided now, or None if they need not be."""
    target, prepared = seen.memory.target, seen.known
    if target is None:
        return Reason.INITIAL_PLAN
    if _waits_for_requests(seen.memory):
        return Reason.DEMAND_ROSE
    if target.spec_print and target.spec_print != prepared.spec_print:
        return Reason.SPEC_CHANGED
    if target.profile_print and target.profile_print != prepared.profile_print:
        return Reason.PROFILE_CHANGED
    if target.corrections != prepared.corrections:
        return Reason.PROFILE_CORRECTED
    if target.inventory and dict(target.inventory) != dict(snapshot.inventory or {}):
        return Reason.CAPACITY_CHANGED
    tick_s = settings.tick_s(seen.objective_s)
    rose = (
        expected.pool_rate > EMERGENCY_DEMAND_RATIO * target.demand
        or _wanted(seen, expected) > EMERGENCY_WANTED_RATIO * target.demand
    )
    if rose or now - target.decided_at_s >= EMERGENCY_PAUSE_TICKS * tick_s:
        emergency = _emergency(seen, expected, division)
        if emergency is not None:
            return emergency
    if now - target.decided_at_s >= settings.pool_ticks * tick_s:
        return Reason.DEMAND_ROSE if expected.pool_rate > target.demand else Reason.DEMAND_FELL
    return None


def _waits_for_requests(memory: CascadeMemory) -> bool:
    """Whether a cascade was parked, and no pools have been decided for it since."""
    return memory.parked and not (memory.target and memory.target.pools)


def _emergency(seen: Observed, expected: Forecast, division: Divisions) -> Reason | None:
    """The reason, if even the complete target cannot carry the load, so that other shares would not help; else None."""
    target = division.allocated(seen, seen.target.workers, seen.target.sizes)
    if seen.known.share(target, demand=expected.pool_rate).shed > 0:
        return Reason.DEMAND_ROSE
    several = len(seen.known.problem.sets) > 1 or seen.pool is not None or seen.known.problem.floor is not None
    if several and expected.pool_rate > EMERGENCY_DEMAND_RATIO * seen.target.demand:
        # Some quick variant carries any load there, but badly: other weights must come soon, and a load is cheap. And
        # for a floor there are no more workers than it takes.
        return Reason.DEMAND_ROSE
    for key, size in seen.target_sizes.items() if seen.known.hull is None else ():
        part = _backlog_objectives(seen, key[0])
        if part is not None and _waiting_s(seen, key, size) > part * seen.objective_s:
            return Reason.BACKLOG_GREW
    return None


def _waiting_s(seen: Observed, key: PoolKey, size: PoolSize) -> float:
    """Seconds that a pool of that size needs for the requests that wait for it."""
    seconds = seen.known.timings.execution_s(*key).get(size.batch, 0.0)
    return seen.waiting(key) / size.batch / size.replicas * seconds if size.replicas else 0.0


def _backlog_objectives(seen: Observed, variant: str) -> float | None:
    """Part of the objective that serving a variant's queue may take; None if light images can be the answer instead."""
    if variant not in seen.firm_variants():
        return None
    is_light = any(row.light == variant and row.direct < 1 for row in seen.rows)
    return LIGHT_BACKLOG_OBJECTIVES if is_light else DIRECT_BACKLOG_OBJECTIVES


def _pool_problem(seen: Observed, expected: Forecast, due: Reason | None, now: float) -> CascadeProblem:
    """The question to the allocation: the demand, including the backlog, and the replicas that run.

    After a backlog grew, the demand is not taken to be less than in the last decision.
    """
    demand, last = _wanted(seen, expected), seen.memory.target or Target()
    if due is Reason.BACKLOG_GREW:
        demand = max(demand, last.demand)
    running = seen.placement(seen.running, seen.target)
    return seen.known.at(
        demand,
        running={key: size.replicas for key, size in running.pools.items()},
        running_batch=seen.batches(seen.target_sizes),
        running_hosts=seen.running,
    )


def _wanted(seen: Observed, expected: Forecast) -> float:
    """Prompts per second that new pools must serve: the forecast, plus the backlog expressed in prompts."""
    return expected.pool_rate + backlog_prompts(seen)


def _too_tight(
    seen: Observed,
    expected: Forecast,
    answer: Allocation,
    now: float,
    settings: PlannerSettings,
    division: Divisions,
) -> bool:
    """Whether smaller pools would shed load that may come by chance, and that the present target would serve.

    The answer is no unless the load may return before the pools could grow again. That is so if demand surged lately,
    if a move takes long, or if the cascade has so few replicas that one move concerns a large part of them.
    """
    surged = now - expected.surged_at_s < AFTER_SURGE_OBJECTIVES * seen.objective_s
    if not (surged or seen.moves_slowly or len(seen.workers) * settings.moves_percent < 100):
        return False
    window_s = bounded_window_s(settings.forecast_window * seen.objective_s)
    demand = expected.pool_rate + CHANCE_DEMAND_SIGMAS * math.sqrt(expected.pool_rate / window_s)
    present = seen.known.share(division.allocated(seen, seen.target.workers, seen.target.sizes), demand=demand).shed
    smaller = division.allocated(seen, answer.hosts, answer.pools)
    return seen.known.share(smaller, demand=demand).shed > present + NEGLIGIBLE_SHED_SHARE


def _floor(seen: Observed, answer: Allocation) -> FloorTarget | None:
    """How an allocation holds the cascade's quality floor."""
    wanted, heavy = seen.known.spec.objective.quality, answer.all_heavy
    if wanted is None:
        return None
    return FloorTarget(
        no_worse_than=float(wanted.no_worse_than),
        expected=round(seen.known.problem.frontier.metric(answer.value), 4),
        held=not answer.shed and holds_floor(seen.known.problem, answer.value),
        all_heavy_workers=heavy.workers if heavy is not None else None,
        all_heavy_cost_per_hour=heavy.cost_per_hour if heavy is not None else None,
    )


def _adopted(
    seen: Observed,
    expected: Forecast,
    problem: CascadeProblem,
    answer: Allocation,
    due: Reason | None,
    snapshot: Snapshot,
    now: float,
) -> TargetDecision:
    """The allocation as the new target; the reason changes only if the pools do, or if it is one of `RENEWED`."""
    before, pools = seen.memory.target, target_pools(answer.pools)
    news = None
    if before is None or pools != before.pools or due in RENEWED:
        news = due or Reason.CAPACITY_CHANGED
    target = Target(
        pools=pools,
        hosts=target_hosts(answer.hosts if seen.known.hull is not None else seen.known.hosts_for(answer.pools)),
        verdict=answer.verdict,
        binding=answer.binding,
        cost_per_hour=answer.cost_per_hour,
        decided_at_s=now,
        demand=problem.demand,
        spec_print=seen.known.spec_print,
        profile_print=seen.known.profile_print,
        inventory=dict(snapshot.inventory or {}),
        corrections=seen.known.corrections,
        floor=_floor(seen, answer),
    )
    return TargetDecision(target, news or seen.memory.reason, seen.memory.parked, news, answer)

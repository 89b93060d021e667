"""The third stage of a decision: which pools each cascade shall have.

Pools are decided for again every few ticks, and at once where the spec, the profile or the accelerators changed, where
demand rose, or where a queue grew that the present target cannot carry. All cascades that compete for accelerators are
then decided for together, by one allocation, at the demand that is forecast for when new pools serve plus what waits:

    demand = pool_rate + Σ over variants of (waiting / half an objective) / (share of the prompts that reach it)

Smaller pools are not taken where load may be back before they could grow again and where demand three Poisson standard
deviations above the forecast would then be shed. Constants were tried on generated traces, and on the published ones
with one to three seeds (docs/benchmarks/policies.md says which, and what each is worth).
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

from ..snapshot import ReplicaState, Snapshot
from .allocation import Allocation, AllocationProblem, CascadeProblem, PoolKey, PoolSize, groups
from .arrivals import bounded_window_s
from .forecast import Forecast
from .memory import CascadeMemory, Target, target_pools
from .observed import Observed
from .policies import PlanningPolicy, joint

EMERGENCY_DEMAND_RATIO: Final = 1.1
"""Demand above what the pools were decided for by this factor lets an emergency decide again at once."""
EMERGENCY_WANTED_RATIO: Final = 1.5
"""The same for demand with what waits on top, which wavers more."""
EMERGENCY_PAUSE_TICKS: Final = 4
"""Ticks between two emergency decisions at the same demand."""
LIGHT_BACKLOG_OBJECTIVES: Final = 1 / 8
"""Part of the objective that a light pool's queue may take to serve before it is an emergency."""
DIRECT_BACKLOG_OBJECTIVES: Final = 1 / 4
"""The same for a pool that prompts reach directly and where they cannot be degraded."""
CHANCE_DEMAND_SIGMAS: Final = 3.0
"""Poisson standard deviations by which demand may exceed its forecast by chance."""
AFTER_SURGE_OBJECTIVES: Final = 10.0
"""Objectives for which another surge is reckoned with after one."""
NEGLIGIBLE_SHED_SHARE: Final = 0.01
"""Share of the demand that is not worth keeping pools for."""
RENEWED: Final = (Reason.SPEC_CHANGED, Reason.PROFILE_CHANGED, Reason.PROFILE_CORRECTED)
"""Reasons to say that a target was decided for, whether or not its pools are others."""
LEAST_REACH_SHARE: Final = 0.5
"""What waits for a variant counts as at most one request for this share of a prompt that reaches it."""


@dataclass(frozen=True)
class TargetDecision:
    """What one cascade's pools shall be after this tick.

    ``reason`` is why the target last changed, ``news`` the same where that is now. ``allocation`` is the answer that
    was adopted in this tick, None where pools were not decided for.
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


class Allocations:
    """Remembers what the policy answered for each group of cascades as long as the same is asked."""

    def __init__(self) -> None:
        self._known: dict[tuple[CascadeRef, ...], tuple[AllocationProblem, Mapping[CascadeRef, Allocation]]] = {}

    def of(self, problem: AllocationProblem, decides: PlanningPolicy) -> Mapping[CascadeRef, Allocation]:
        """The allocation of every cascade of a problem; ``decides`` is the policy to ask."""
        rivals = tuple(cascade.ref for cascade in problem.cascades)
        known = self._known.get(rivals)
        if known is None or known[0] != problem:
            known = self._known[rivals] = problem, decides.allocate(problem)
        return known[1]

    def keep_only(self, refs: set[CascadeRef]) -> None:
        """Forget cascades that are gone."""
        self._known = {rivals: kept for rivals, kept in self._known.items() if refs.issuperset(rivals)}


def decide_targets(
    observed: Sequence[Observed],
    forecasts: Mapping[CascadeRef, Forecast],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    *,
    prices_per_hour: Mapping[str, float],
    allocations: Allocations,
) -> dict[CascadeRef, TargetDecision]:
    """What the pools of every cascade shall be; one that is not decided for keeps what it has."""
    decided = {seen.ref: _parked(seen, now) if seen.decides and seen.idle else _kept(seen) for seen in observed}
    planned = [seen for seen in observed if seen.decides and not seen.idle]
    due = {seen.ref: _due(seen, forecasts[seen.ref], snapshot, now, settings) for seen in planned}
    others = Counter(r.accelerator_class for seen in observed if seen not in planned for r in seen.view.replicas)
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
            if reason is Reason.DEMAND_FELL and _too_tight(seen, expected, answer, now, settings):
                # What is held still is what it was made for.
                last = seen.memory.target or Target()
                answer = replace(answer, pools=last.sizes)
                problem = replace(problem, demand=max(problem.demand, last.demand))
            decided[seen.ref] = _adopted(seen, expected, problem, answer, reason, snapshot, now)
    return decided


def _kept(seen: Observed) -> TargetDecision:
    memory = seen.memory
    return TargetDecision(memory.target, memory.reason, memory.parked)


def _parked(seen: Observed, now: float) -> TargetDecision:
    """No replica is wanted of an idle cascade."""
    target = replace(
        seen.memory.target or Target(),
        pools=(),
        verdict=Reason.OPTIMAL,
        binding=(),
        cost_per_hour=0.0,
        decided_at_s=now,
        demand=0.0,
    )
    return TargetDecision(target, Reason.PARKED, parked=True, news=None if seen.memory.parked else Reason.PARKED)


def _due(
    seen: Observed, expected: Forecast, snapshot: Snapshot, now: float, settings: PlannerSettings
) -> Reason | None:
    """Why pools are to be decided now, or None."""
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
        emergency = _emergency(seen, expected)
        if emergency is not None:
            return emergency
    if now - target.decided_at_s >= settings.pool_ticks * tick_s:
        return Reason.DEMAND_ROSE if expected.pool_rate > target.demand else Reason.DEMAND_FELL
    return None


def _waits_for_requests(memory: CascadeMemory) -> bool:
    """Whether a cascade was parked and no allocation was made for it since."""
    return memory.parked and not (memory.target and memory.target.pools)


def _emergency(seen: Observed, expected: Forecast) -> Reason | None:
    """Whether the target itself cannot carry the load: shares cannot mend that."""
    sizes = seen.target_sizes
    if seen.known.share(sizes, demand=expected.pool_rate).shed > 0:
        return Reason.DEMAND_ROSE
    for key, size in sizes.items():
        part = _backlog_objectives(seen, key[0])
        if part is not None and _waiting_s(seen, key, size) > part * seen.objective_s:
            return Reason.BACKLOG_GREW
    return None


def _waiting_s(seen: Observed, key: PoolKey, size: PoolSize) -> float:
    """Seconds that a pool of that size takes for what waits for it."""
    seconds = seen.known.timings.execution_s(*key).get(size.batch, 0.0)
    return seen.waiting(key) / size.batch / size.replicas * seconds if size.replicas else 0.0


def _backlog_objectives(seen: Observed, variant: str) -> float | None:
    """Part of the objective that a variant's queue may take; None where what waits can be degraded."""
    if variant not in seen.firm_variants():
        return None
    is_light = any(row.light == variant and row.direct < 1 for row in seen.rows)
    return LIGHT_BACKLOG_OBJECTIVES if is_light else DIRECT_BACKLOG_OBJECTIVES


def _pool_problem(seen: Observed, expected: Forecast, due: Reason | None, now: float) -> CascadeProblem:
    """What the allocation is asked: the demand with what waits on top, and what runs.

    While a backlog stands, pools are not made for less than before.
    """
    demand, last = _wanted(seen, expected), seen.memory.target or Target()
    if due is Reason.BACKLOG_GREW:
        demand = max(demand, last.demand)
    serving = (ReplicaState.READY, ReplicaState.STARTING)
    running = Counter(r.pool for r in seen.view.replicas if r.state in serving)
    return seen.known.at(demand, running=running, running_batch=seen.batches(seen.target_sizes))


def _wanted(seen: Observed, expected: Forecast) -> float:
    """Prompts per second that new pools must serve: what arrives, and what waits for each that reaches its pool."""
    waiting = seen.backlog(seen.batches(seen.target_sizes))
    return expected.pool_rate + sum(
        rate / max(_reached(seen, variant), LEAST_REACH_SHARE) for variant, rate in waiting.items()
    )


def _reached(seen: Observed, variant: str) -> float:
    """Share of the prompts that reach a variant by the plan in force."""
    light = sum(row.share * (1 - row.direct) for row in seen.rows if row.light == variant)
    return light + sum(row.share * row.heavy_share for row in seen.rows if row.heavy == variant)


def _too_tight(seen: Observed, expected: Forecast, answer: Allocation, now: float, settings: PlannerSettings) -> bool:
    """Whether smaller pools would shed load that may come by chance, and that the present target would serve.

    That is asked only where load may be back before pools are: demand surged lately, a move takes long, or a cascade
    has so few replicas that one move is a large part of them.
    """
    surged = now - expected.surged_at_s < AFTER_SURGE_OBJECTIVES * seen.objective_s
    if not (surged or seen.moves_slowly or len(seen.view.replicas) * settings.moves_percent < 100):
        return False
    window_s = bounded_window_s(settings.forecast_window * seen.objective_s)
    demand = expected.pool_rate + CHANCE_DEMAND_SIGMAS * math.sqrt(expected.pool_rate / window_s)
    present = seen.known.share(seen.target_sizes, demand=demand).shed
    return seen.known.share(answer.pools, demand=demand).shed > present + NEGLIGIBLE_SHED_SHARE


def _adopted(
    seen: Observed,
    expected: Forecast,
    problem: CascadeProblem,
    answer: Allocation,
    due: Reason | None,
    snapshot: Snapshot,
    now: float,
) -> TargetDecision:
    """The allocation as the target; its reason changes only where the target does."""
    before, pools = seen.memory.target, target_pools(answer.pools)
    news = None
    if before is None or pools != before.pools or due in RENEWED:
        news = due or Reason.CAPACITY_CHANGED
    target = Target(
        pools=pools,
        verdict=answer.verdict,
        binding=answer.binding,
        cost_per_hour=answer.cost_per_hour,
        decided_at_s=now,
        demand=problem.demand,
        spec_print=seen.known.spec_print,
        profile_print=seen.known.profile_print,
        inventory=dict(snapshot.inventory or {}),
        corrections=seen.known.corrections,
    )
    return TargetDecision(target, news or seen.memory.reason, seen.memory.parked, news, answer)

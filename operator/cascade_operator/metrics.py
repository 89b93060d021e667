"""The operator's metrics for Prometheus."""

from __future__ import annotations

from collections import Counter as Count
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cascade_api.bad_data import owner_and_kind
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.status import CascadeStatus

from .planning.planner import Decision
from .snapshot import (
    DrainWorker,
    HostState,
    Load,
    PoolRef,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    WorkerState,
)

REGISTRY = CollectorRegistry()

TICKS = Counter("cascade_operator_ticks_total", "Decisions of the planner", ["outcome"], registry=REGISTRY)
DECIDE_S = Histogram(
    "cascade_operator_decide_seconds",
    "Time that one decision over all cascades takes",
    buckets=[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registry=REGISTRY,
)
LAST_TICK = Gauge(
    "cascade_operator_last_tick_timestamp_seconds", "Unix time of the last completed decision", registry=REGISTRY
)
MOVES = Counter("cascade_operator_moves_total", "Steps of workers begun", ["cascade", "move"], registry=REGISTRY)
PLANS = Counter("cascade_operator_plans_total", "Plans put in force", ["cascade", "reason"], registry=REGISTRY)
PLAN_TIME = Gauge(
    "cascade_operator_plan_timestamp_seconds", "Unix time of the plan in force", ["cascade"], registry=REGISTRY
)
DEMAND = Gauge(
    "cascade_operator_planned_demand_requests_per_second",
    "Demand that the plan in force is for",
    ["cascade"],
    registry=REGISTRY,
)
LATENCY = Gauge(
    "cascade_operator_expected_latency_p99_seconds",
    "99th percentile that the plan in force expects",
    ["cascade"],
    registry=REGISTRY,
)
DEGRADED = Gauge(
    "cascade_operator_expected_degraded_share",
    "Share of the answers that the plan in force expects to be degraded, because better images would be late",
    ["cascade"],
    registry=REGISTRY,
)
QUALITY = Gauge(
    "cascade_operator_expected_quality",
    "Quality that the plan in force expects, in units of the objective metric",
    ["cascade"],
    registry=REGISTRY,
)
FLOOR = Gauge(
    "cascade_operator_quality_floor",
    "Quality that is to be held (spec.objective.quality), in units of the objective metric; absent without a floor",
    ["cascade"],
    registry=REGISTRY,
)
FLOOR_HELD = Gauge(
    "cascade_operator_quality_floor_held",
    "1 if the plan in force holds the quality floor, 0 if not; absent without a floor",
    ["cascade"],
    registry=REGISTRY,
)
REALISED_QUALITY = Gauge(
    "cascade_operator_realised_quality",
    "Mean quality of the latest images, by the shares that were realised, in metric units; absent without a floor",
    ["cascade"],
    registry=REGISTRY,
)
ALL_HEAVY = Gauge(
    "cascade_operator_all_heavy_workers",
    "Workers that it would take to make every image by the best variant; absent without a floor",
    ["cascade"],
    registry=REGISTRY,
)
ALL_HEAVY_COST = Gauge(
    "cascade_operator_all_heavy_cost_per_hour",
    "What these would cost, to compare with cascade_operator_cost_per_hour; absent without a floor",
    ["cascade"],
    registry=REGISTRY,
)
COST = Gauge(
    "cascade_operator_cost_per_hour",
    "Cost of the plan in force, by the classes' prices",
    ["cascade"],
    registry=REGISTRY,
)
SHARE = Gauge(
    "cascade_operator_planned_share",
    "Share of the prompts by route in the plan in force",
    ["cascade", "route"],
    registry=REGISTRY,
)
REPLICAS = Gauge(
    "cascade_operator_replicas",
    "Replicas by pool and state",
    ["cascade", "variant", "class", "state"],
    registry=REGISTRY,
)
SLOWDOWN = Gauge(
    "cascade_operator_slowdown",
    "How many times slower than its profile a pool is, by the batches that workers report; absent if it is not slower",
    ["cascade", "variant", "class"],
    registry=REGISTRY,
)
WANTED = Gauge(
    "cascade_operator_replicas_wanted", "Replicas wanted by pool", ["cascade", "variant", "class"], registry=REGISTRY
)
ACCELERATORS = Gauge(
    "cascade_operator_accelerators",
    "Accelerators by class that all cascades may have together; absent if they are not known",
    ["class"],
    registry=REGISTRY,
)
CONDITION = Gauge(
    "cascade_operator_condition",
    "1 for the status and reason that a condition has",
    ["cascade", "type", "status", "reason"],
    registry=REGISTRY,
)
REDIS_AVAILABLE = Gauge("cascade_operator_redis_available", "Whether Redis answers (1) or not", registry=REGISTRY)
API_AVAILABLE = Gauge("cascade_operator_api_available", "Whether the API server answers (1) or not", registry=REGISTRY)
API_REQUESTS = Counter(
    "cascade_operator_api_requests_total",
    "Requests to the API server, except watches",
    ["method", "kind", "outcome"],
    registry=REGISTRY,
)
REVERTED = Counter(
    "cascade_operator_reverted_edits_total",
    "Edits by others that the operator reverted",
    ["cascade"],
    registry=REGISTRY,
)

BAD_DATA = Counter(
    "cascade_operator_bad_data_total",
    "How often data under a key of Redis could not be used, by cascade (`-` for none) and kind of key",
    ["cascade", "key"],
    registry=REGISTRY,
)

_BY_CASCADE = (
    MOVES,
    PLANS,
    PLAN_TIME,
    DEMAND,
    LATENCY,
    DEGRADED,
    QUALITY,
    FLOOR,
    FLOOR_HELD,
    REALISED_QUALITY,
    ALL_HEAVY,
    ALL_HEAVY_COST,
    COST,
    SHARE,
    REPLICAS,
    SLOWDOWN,
    WANTED,
    CONDITION,
    REVERTED,
    BAD_DATA,
)


def count_request(method: str, kind: str, outcome: str) -> None:
    """Count a request to the API server with its outcome."""
    API_REQUESTS.labels(method, kind, outcome).inc()


def count_bad_data(key: str) -> None:
    """Count that data of a Redis key was left out."""
    BAD_DATA.labels(*owner_and_kind(key)).inc()


_MOVES: Final = {StartWorker: "start", DrainWorker: "drain", StopWorker: "stop", Load: "load", Unload: "unload"}


def record_decision(snapshot: Snapshot, decision: Decision, *, took_s: float, now: float) -> None:
    """Record a decision."""
    TICKS.labels("ok").inc()
    DECIDE_S.observe(took_s)
    LAST_TICK.set(now)
    REDIS_AVAILABLE.set(snapshot.store_available)
    ACCELERATORS.clear()
    for name, count in (snapshot.inventory or {}).items():
        ACCELERATORS.labels(name).set(count)
    pool_of = {worker.id: worker.pool for worker in snapshot.workers}
    for action in decision.actions:
        if not isinstance(action, Publish | SetStatus):
            pool = action.pool if isinstance(action, StartWorker) else pool_of[action.worker]
            MOVES.labels(str(pool.owner or ""), _MOVES[type(action)]).inc()
    SLOWDOWN.clear()
    for name, memory in decision.memory.cascades.items():
        for slow in memory.slowdowns:
            SLOWDOWN.labels(name, slow.variant, slow.accelerator_class).set(slow.factor)
    for diagnosis in decision.diagnostics:
        if diagnosis.realised_quality is None:
            _drop(REALISED_QUALITY, str(diagnosis.cascade))
        else:
            REALISED_QUALITY.labels(str(diagnosis.cascade)).set(diagnosis.realised_quality)
    REPLICAS.clear()
    for view in snapshot.cascades:
        weights = {variant.name: variant.weights.digest for variant in view.cascade.spec.variants}
        pools = {PoolRef.of(view.cascade.ref, each) for each in view.cascade.spec.workers}
        own = [w for w in snapshot.workers if w.pool.owner == view.cascade.ref or w.pool in pools]
        states = Count(
            (name, worker.accelerator_class, worker.state)
            for worker in own
            for name, digest in weights.items()
            if digest in worker.hosting(*HostState)
        )
        for variant, accelerator_class in {(name, on) for name, on, _ in states}:
            for state in WorkerState:
                value = states[variant, accelerator_class, state]
                REPLICAS.labels(str(view.cascade.ref), variant, accelerator_class, state.value).set(value)


def show_plan(plan: Plan) -> None:
    """Show the plan in force."""
    name = plan.cascade
    PLAN_TIME.labels(name).set(plan.generation / 1000)
    DEMAND.labels(name).set(plan.expected.demand)
    LATENCY.labels(name).set(plan.expected.latency_p99)
    DEGRADED.labels(name).set(plan.expected.degraded)
    QUALITY.labels(name).set(plan.expected.quality)
    COST.labels(name).set(float(plan.expected.cost_per_hour))
    _drop(FLOOR, name)
    _drop(FLOOR_HELD, name)
    if plan.expected.floor is not None:
        FLOOR.labels(name).set(plan.expected.floor.no_worse_than)
        FLOOR_HELD.labels(name).set(plan.expected.floor.held)
    for route, share in plan.planned_shares.items():
        SHARE.labels(name, route).set(share)


def record_status(ref: CascadeRef, status: CascadeStatus) -> None:
    """Record a reported status."""
    name = str(ref)
    _drop(CONDITION, name)
    _drop(WANTED, name)
    for condition in status.conditions:
        CONDITION.labels(name, str(condition.type), condition.status, str(condition.reason)).set(1)
    _drop(ALL_HEAVY, name)
    _drop(ALL_HEAVY_COST, name)
    if status.quality is not None and status.quality.all_heavy_workers is not None:
        ALL_HEAVY.labels(name).set(status.quality.all_heavy_workers)
        ALL_HEAVY_COST.labels(name).set(float(status.quality.all_heavy_cost_per_hour or 0))
    for pool in status.pools:
        WANTED.labels(name, pool.variant, pool.accelerator_class).set(pool.desired)


def forget(ref: CascadeRef) -> None:
    """Remove the series of a deleted cascade."""
    for metric in _BY_CASCADE:
        _drop(metric, str(ref))


def _drop(metric: Counter | Gauge, cascade: str) -> None:
    metric.remove_by_labels({"cascade": cascade})

"""What `cascade status` shows of a local run, as data and as text: plan, demand, shares, workers, pools, conditions."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import structlog

from cascade_api.command import CommandFailed, read_text
from cascade_api.documents import CascadeFile, load_cascades
from cascade_api.explanations import floor_words, latency_words, row_words
from cascade_api.local import Addresses, read_addresses
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.report import RouterReport, demand_per_s, realised_shares
from cascade_api.status import CascadeStatus, WorkerPoolStatus

from ..store import Observation, Store, pools_of
from .services import without_password
from .state import StateDir


@dataclass(frozen=True)
class CascadeOverview:
    """One cascade; ``seen`` is None if Redis is away."""

    ref: CascadeRef
    status: CascadeStatus | None
    seen: Observation | None
    demand_per_s: float | None


@dataclass(frozen=True)
class Overview:
    """A local run; ``children`` are process ids by name, ``pools`` statuses of WorkerPools by full name."""

    pid: int
    addresses: Addresses
    children: dict[str, int]
    cascades: tuple[CascadeOverview, ...]
    pools: dict[str, WorkerPoolStatus]


def collect(state: StateDir) -> Overview:
    """Observe the run of a state directory; raises CommandFailed if nothing runs from it."""
    # Logs go to standard error, since standard output is for the overview.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    pid = state.holder()
    addresses = read_addresses(state.path)
    if pid is None:
        crashed = state.crashed()
        ended = f" (process {crashed} ended without cleaning up: run `cascade down`)" if crashed else ""
        raise CommandFailed(f"nothing runs from {state.path}{ended}: start it with `cascade up`")
    if addresses is None:
        raise CommandFailed(f"process {pid} is still starting; its logs are in {state.logs}")
    manifest = load_cascades(read_text(state.manifest), source=addresses.manifest)
    cascades = asyncio.run(_observe(state, addresses, manifest))
    named = {f"{pool.metadata.namespace}/{pool.metadata.name}": pool.metadata for pool in manifest.pools}
    statuses = {name: state.read_pool_status(each.namespace, each.name) for name, each in named.items()}
    pools = {name: status for name, status in statuses.items() if status is not None}
    return Overview(pid, addresses, state.read_pids(), cascades, pools)


async def _observe(state: StateDir, addresses: Addresses, file: CascadeFile) -> tuple[CascadeOverview, ...]:
    found = []
    async with Store(addresses.redis) as store:
        for cascade in file.cascades:
            seen = await store.observe(cascade.ref, pools_of(cascade))
            found.append(
                CascadeOverview(
                    ref=cascade.ref,
                    status=state.read_status(cascade.ref),
                    seen=seen,
                    demand_per_s=demand_per_s(seen.demand.counts, now=time.time()) if seen else None,
                )
            )
    return tuple(found)


def as_json(seen: Overview) -> str:
    """The overview as JSON."""
    return json.dumps(
        {
            "pid": seen.pid,
            "addresses": seen.addresses.wire() | {"redis": without_password(seen.addresses.redis)},
            "children": seen.children,
            "cascades": [_data(cascade) for cascade in seen.cascades],
            "workerPools": {name: status.wire() for name, status in seen.pools.items()},
        },
        indent=2,
    )


def _data(cascade: CascadeOverview) -> dict[str, Any]:
    data: dict[str, Any] = {
        "cascade": str(cascade.ref),
        "status": cascade.status.wire() if cascade.status else None,
        "redis": cascade.seen is not None,
    }
    if cascade.seen is None:
        return data
    seen = cascade.seen
    plan = seen.plan
    return data | {
        "demandPerSecond": cascade.demand_per_s,
        "plan": json.loads(plan.to_json()) if plan else None,
        "workers": _workers(plan) if plan else [],
        "pools": _pools(cascade),
        "shares": {"planned": plan.planned_shares if plan else {}, "realised": realised_shares(seen.reports)},
        "routers": [json.loads(report.model_dump_json(by_alias=True)) for report in seen.reports],
    }


def _pools(cascade: CascadeOverview) -> list[dict[str, Any]]:
    seen = cascade.seen
    if seen is None or seen.plan is None:
        return []
    desired = {pool.name: pool.desired for pool in cascade.status.pools} if cascade.status else {}
    return [
        {
            "name": pool.name,
            "variant": pool.variant,
            "class": pool.accelerator_class,
            "ready": len(pool.ready),
            "desired": desired.get(pool.name, len(pool.workers)),
            "batch": pool.batch,
            "queue": seen.queue_depths.get(pool.name, 0),
            "inUse": sum(seen.in_use.get(pool.name, {}).get(worker.id, 0) for worker in pool.workers),
            "replicas": {replica.id: replica.state for replica in pool.workers},
        }
        for pool in seen.plan.pools
    ]


def _workers(plan: Plan) -> list[dict[str, Any]]:
    """What each worker hosts, as the variants that it can serve."""
    return [
        {
            "id": worker.id,
            "state": worker.state,
            "hosts": sorted(name for name, variant in plan.variants.items() if variant.weights in worker.hosts),
        }
        for worker in plan.workers
    ]


def as_text(seen: Overview) -> str:
    """The overview as text, for people."""
    lines = [f"running: process {seen.pid}, gRPC {seen.addresses.grpc}, HTTP http://{seen.addresses.http}"]
    for name, status in seen.pools.items():
        lines += ["", *_pool_lines(name, status)]
    for cascade in seen.cascades:
        lines += ["", *_lines(cascade)]
    return "\n".join(lines)


def _pool_lines(name: str, status: WorkerPoolStatus) -> list[str]:
    """A WorkerPool: its workers, how their time is divided, and what they host."""
    lines = [f"WorkerPool {name}: {status.workers} workers ready; their time: {status.division or 'nobody has any'}"]
    lines += [f"  {hosted.workers} host {hosted.variants}" for hosted in status.weights]
    return lines


def _lines(cascade: CascadeOverview) -> list[str]:
    lines = [str(cascade.ref)]
    seen = cascade.seen
    if seen is None:
        lines.append("  redis does not answer: showing conditions only")
    elif seen.plan is None:
        lines.append("  no plan yet")
    else:
        plan = seen.plan
        lines.append(f"  plan {plan.generation} since {plan.issued_at}: {plan.reason}")
        lines.append(
            f"  demand {cascade.demand_per_s or 0:.1f}/s (planned for {plan.expected.demand:.1f}/s), "
            f"expected {latency_words(plan.expected)}, "
            f"expected quality {plan.expected.quality:.3f}{floor_words(plan.expected)}"
        )
        lines += [f"  {row_words(row)}" for row in plan.rows]
        lines.append(_share_line(plan.planned_shares, realised_shares(seen.reports)))
        lines += [_latency_line(report) for report in seen.reports]
        for worker in _workers(plan):
            lines.append(
                f"  worker {worker['id']}: {worker['state']}, hosts {' and '.join(worker['hosts']) or 'nothing'}"
            )
        lines.append("  pool                     ready  desired  batch  queue  in use  workers")
        for pool in _pools(cascade):
            replicas = ", ".join(f"{name} {state}" for name, state in pool["replicas"].items())
            lines.append(
                f"  {pool['name']:<24} {pool['ready']:>5}  {pool['desired']:>7}  {pool['batch']:>5}  "
                f"{pool['queue']:>5}  {pool['inUse']:>6}  {replicas}"
            )
    if cascade.status is not None:
        for condition in cascade.status.conditions:
            message = f": {condition.message}" if condition.message else ""
            lines.append(f"  {condition.type}={condition.status} ({condition.reason}){message}")
    return lines


def _share_line(planned: dict[str, float], realised: dict[str, float]) -> str:
    parts = [f"{route} {share:.0%} / {_percent(realised.get(route))}" for route, share in planned.items()]
    return f"  shares planned / realised in the last minute: {', '.join(parts)}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _latency_line(report: RouterReport) -> str:
    p50, p99 = report.latency_p50_s, report.latency_p99_s
    latency = "no answers yet" if p50 is None or p99 is None else f"latency p50 {p50:.3f} s, p99 {p99:.3f} s"
    refused = sum(report.refusals.values())
    return f"  router {report.router}: {latency}; {sum(report.routes.values())} answered, {refused} refused"

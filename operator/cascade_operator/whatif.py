"""What would be decided for a demand, for `cascade plan`: the real planner, with workers whose moves take no time.

The planner decides tick after tick for a steady demand, and each action is carried out at once. After `TICKS` ticks the
plan in force is the answer.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from cascade_api.command import CommandFailed
from cascade_api.documents import CascadeFile
from cascade_api.explanations import plan_line, stage_lines
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.settings import PlannerSettings, from_environment
from cascade_api.status import CascadeStatus

from .planning.memory import Memory
from .planning.planner import Planner
from .snapshot import (
    Action,
    CascadeView,
    Demand,
    Diagnostics,
    DrainWorker,
    Host,
    HostState,
    Load,
    PoolView,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)

START_S: Final = 1_000_000.0
TICKS: Final = 40
"""Number of ticks after which the plan is shown."""
HISTORY_S: Final = 600
MOST_DEMAND: Final = 1e6
"""Largest demand in requests per second; a larger one is probably a mistake."""


@dataclass(frozen=True)
class WhatIf:
    """The plan and status that one cascade would have."""

    ref: CascadeRef
    plan: Plan | None
    status: CascadeStatus | None
    diagnostics: Diagnostics | None


@dataclass
class _World:
    """Cascades whose workers move instantly, on as many accelerators as the manifest asks for."""

    workers: dict[str, Worker]
    plans: dict[CascadeRef, Plan]
    statuses: dict[CascadeRef, CascadeStatus]

    def obey(self, action: Action, now: float) -> None:
        match action:
            case Publish():
                self.plans[action.plan.ref] = action.plan
            case SetStatus():
                self.statuses[action.cascade] = action.status
            case StartWorker():
                name = f"{action.accelerator_class}-{len(self.workers)}"
                hosts = tuple(Host(weights, HostState.READY, now) for weights in action.weights)
                self.workers[name] = Worker(
                    id=name,
                    pool=action.pool,
                    accelerator_class=action.accelerator_class,
                    endpoint="127.0.0.1:1",
                    state=WorkerState.READY,
                    since_s=now,
                    hosts=hosts,
                    in_flight={},
                )
            case StopWorker():
                self.workers.pop(action.worker, None)
            case Load() | Unload() | DrainWorker():
                self.workers[action.worker] = _moved(self.workers[action.worker], action, now)


def _moved(worker: Worker, action: Load | Unload | DrainWorker, now: float) -> Worker:
    if isinstance(action, DrainWorker):
        return replace(worker, state=WorkerState.DRAINING, since_s=now)
    others = tuple(host for host in worker.hosts if host.weights != action.weights)
    if isinstance(action, Unload):
        return replace(worker, hosts=others)
    return replace(worker, state=WorkerState.READY, hosts=(*others, Host(action.weights, HostState.READY, now)))


def decide_for(file: CascadeFile, *, demand: float, source: str) -> list[WhatIf]:
    """The plan of every cascade of a file at a steady ``demand`` (requests per second for each cascade).

    Raises CommandFailed, which names the ``source`` of the file, if a cascade cannot be planned.
    """
    if not 0 <= demand <= MOST_DEMAND:
        raise CommandFailed(f"--demand: {demand:g} is not a rate from 0 to {MOST_DEMAND:g} requests per second", code=2)
    planner = Planner(from_environment(PlannerSettings))
    world, memory = _World({}, {}, {}), Memory()
    inventory: Counter[str] = Counter()
    for cascade in file.cascades:
        inventory.update({w.accelerator_class: w.max for w in cascade.spec.workers if w.pool is None})
    for pool in file.pools:
        inventory[pool.spec.accelerator_class] += pool.spec.workers.max
    now = START_S
    diagnostics: tuple[Diagnostics, ...] = ()
    for _ in range(TICKS):
        snapshot = Snapshot(
            cascades=tuple(
                CascadeView(
                    cascade=cascade,
                    profile=file.profile_of(cascade),
                    plan=world.plans.get(cascade.ref),
                    demand=_steady(demand, now),
                    queue_depths={},
                    reports=(),
                    status=world.statuses.get(cascade.ref),
                )
                for cascade in file.cascades
            ),
            inventory=inventory,
            workers=tuple(world.workers.values()),
            pools=tuple(map(PoolView, file.pools)),
        )
        decision = planner.decide(snapshot, memory, now)
        memory, diagnostics = decision.memory, decision.diagnostics
        for action in decision.actions:
            world.obey(action, now)
        now = decision.next_at
    found = {diagnosis.cascade: diagnosis for diagnosis in diagnostics}
    answers = [
        WhatIf(c.ref, world.plans.get(c.ref), world.statuses.get(c.ref), found.get(c.ref)) for c in file.cascades
    ]
    for cascade, answer in zip(file.cascades, answers, strict=True):
        if answer.plan is None:
            why = "; ".join(answer.diagnostics.binding) if answer.diagnostics else "no decision"
            if cascade.spec.policy.mode != "auto":
                why = f"spec.policy.mode is {cascade.spec.policy.mode}, which changes no plan: try with auto"
            raise CommandFailed(f"{source}: {answer.ref}: no plan: {why}", code=2)
    return answers


def _steady(rate: float, now: float) -> Demand:
    """Arrivals at a steady rate up to now, as evenly spread whole requests."""
    first = int(now) - HISTORY_S
    totals = [int(rate * second) for second in range(HISTORY_S + 1)]
    return Demand(tuple((first + s, totals[s + 1] - totals[s]) for s in range(HISTORY_S)))


def as_json(answers: list[WhatIf]) -> str:
    """The answers as JSON."""
    return json.dumps(
        [
            {
                "cascade": str(answer.ref),
                "plan": json.loads(answer.plan.to_json()) if answer.plan else None,
                "status": answer.status.wire() if answer.status else None,
                "figures": answer.diagnostics.figures() if answer.diagnostics else {},
                "binding": list(answer.diagnostics.binding) if answer.diagnostics else [],
            }
            for answer in answers
        ],
        indent=2,
    )


def as_text(answers: list[WhatIf]) -> str:
    """The answers for people: the plan, its rows, and what keeps it from being better."""
    lines: list[str] = []
    for answer in answers:
        if answer.plan is None:
            continue
        lines += [f"{answer.ref}", f"  {plan_line(answer.plan)}"]
        for row in answer.plan.rows:
            lines.append(
                f"  {row.share:4.0%} of the prompts by {row.path}: "
                f"direct {row.direct:.0%}, escalating {row.escalation:.0%}"
            )
        lines += [f"  {words}" for words in stage_lines(answer.plan)]
        if answer.diagnostics is not None:
            figures = ", ".join(f"{name} {value:g}" for name, value in sorted(answer.diagnostics.figures().items()))
            lines.append(f"  figures: {figures}")
            lines += [f"  bound by: {constraint}" for constraint in answer.diagnostics.binding]
        for condition in answer.status.conditions if answer.status else ():
            if condition.type in ("AllocationOptimal", "Accepted") and condition.message:
                lines.append(f"  {condition.type}={condition.status} ({condition.reason}): {condition.message}")
    return "\n".join(lines)

"""The product in a simulation: decisions, thresholds, dispatch and planning are its own; only time and servers are
simulated.

In `routers` requests go through the router's own machine, and in `control` the operator's planner decides. One or
several cascades use the accelerators, each with requests of its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from cascade_api.settings import AcceleratorClass, RouterSettings
from cascade_api.workers import Hosting, WorkerPool
from cascade_operator.planning.planner import Planner
from cascade_router.cascade.state import Limits

from .cascades import cascade_of, with_switch_time
from .control import Control, Controlled
from .events import Events
from .routers import SimulatedRouter, Traffic
from .runs import Failure, NoNodes, Progress, Run, Scenario
from .shared_workers import SharedFleet, SharedWorker
from .timings import SimulatedTimings
from .turns import Turns
from .workers import WorkerJob

LIMITS: Final = Limits(waiting=RouterSettings().queue_limit, in_hand=RouterSettings().request_limit)
"""The limits of a router with default settings."""
WARM_UP_S: Final = 30.0
"""Seconds before time zero in which the operator starts the replicas for the beginning of the trace."""


class Simulation:
    """Cascades on the accelerators of a cluster.

    Args:
        traffics: the cascades, each with its requests.
        accelerators: by class.
        pools: the WorkerPools that the cascades name.
        planner: decides for all of them.
        turns: how workers share their time.
        warm_up_s: seconds before time zero in which workers start.
        limits: how many requests the router of each cascade accepts.
        elastic: classes whose Nodes come when they are asked for. Time zero is so much later as the slowest takes.
        no_nodes: when none comes.
    """

    def __init__(
        self,
        traffics: Sequence[Traffic],
        *,
        accelerators: Mapping[str, int],
        planner: Planner,
        seed: int,
        pools: Sequence[WorkerPool] = (),
        turns: Turns = Turns.SHORT_FIRST,
        failures: Sequence[Failure] = (),
        warm_up_s: float = WARM_UP_S,
        limits: Limits = LIMITS,
        elastic: Sequence[AcceleratorClass] = (),
        no_nodes: Sequence[NoNodes] = (),
    ) -> None:
        warm_up_s += max((each.provision_s for each in elastic), default=0.0)
        rng = random.Random(seed)  # noqa: S311 (a simulation)
        self._traffics = tuple(traffics)
        self._failures = tuple(failures)
        self._warm_up_s = warm_up_s
        self._span_s = max(each.trace.span_s for each in traffics)
        self._events = Events(start_s=-warm_up_s)
        self._of_kind = {each.kind(v.name): (each, v) for each in traffics for v in each.cascade.spec.variants}
        self._timings = {
            each.cascade.ref: SimulatedTimings(each.profile.spec, switch_s=None, rng=rng) for each in traffics
        }
        self._fleet = self._workers(accelerators, turns)
        self._unfinished = len(self._traffics)
        self._routers = {
            each.cascade.ref: SimulatedRouter(
                each,
                events=self._events,
                fleet=self._fleet,
                rng=rng,
                limits=limits,
                progress=self._on,
                finished=self._finished,
            )
            for each in traffics
        }
        self._control = Control(
            events=self._events,
            fleet=self._fleet,
            cascades=[
                Controlled(each.cascade, each.profile, self._timings[ref], self._routers[ref].hooks)
                for each in traffics
                for ref in (each.cascade.ref,)
            ],
            pools=pools,
            planner=planner,
            failed=self._failed,
            rng=rng,
            elastic=elastic,
            no_nodes=no_nodes,
        )
        self._loads_before = 0
        self._busy_before_s = 0.0

    def _workers(self, accelerators: Mapping[str, int], turns: Turns) -> SharedFleet:
        names = [(f"{c}-{i:04d}", c) for c, count in accelerators.items() for i in range(count)]
        return SharedFleet(
            self._events,
            [SharedWorker(*name) for name in names],
            weights={kind: variant.weights.digest for kind, (_, variant) in self._of_kind.items()},
            turns=turns,
            batch_s=self._batch_s,
            image_s=self._image_s,
            largest=self._largest,
            done=self._done,
            loaded=self._loaded,
        )

    def _batch_s(self, kind: str, accelerator_class: str, images: int, judged: bool, size: str) -> float:
        traffic, variant = self._of_kind[kind]
        return self._timings[traffic.cascade.ref].batch_s(variant.name, accelerator_class, images, judged, size)

    def _image_s(self, kind: str, accelerator_class: str) -> float:
        traffic, variant = self._of_kind[kind]
        return self._timings[traffic.cascade.ref].median_s(variant.name, accelerator_class, 1, judged=False)

    def _largest(self, kind: str, accelerator_class: str) -> int:
        traffic, variant = self._of_kind[kind]
        return self._timings[traffic.cascade.ref].largest_batch(variant.name, accelerator_class)

    def run(self, progress: Progress) -> list[Run]:
        """Play the traces to their end; a run for each cascade, in their order.

        Loads and accelerator seconds of a run are those of all workers together.
        """
        self._progress = progress
        for router in self._routers.values():
            router.recall_the_opening(self._warm_up_s)
        self._control.start(failures=self._failures)
        self._events.at(0.0, self._begin)
        self._events.run()
        workers = self._fleet.workers.values()
        return [
            Run(
                policy=router.traffic.cascade.spec.policy.name.value,
                outcomes=router.recorder.outcomes(),
                switches=sum(worker.loads for worker in workers) - self._loads_before,
                gpu_seconds=sum(worker.busy_s for worker in workers) - self._busy_before_s,
                changes=tuple(router.changes),
                figures={
                    "decisions": float(self._control.decisions),
                    "planned_work_s": router.planned_work_s,
                },
            )
            for router in self._routers.values()
        ]

    def _begin(self, _: object) -> None:
        workers = self._fleet.workers.values()
        self._loads_before = sum(worker.loads for worker in workers)
        self._busy_before_s = sum(worker.busy_s for worker in workers)
        for router in self._routers.values():
            router.begin()

    def _on(self, now: float) -> None:
        self._progress(max(0.0, min(now / max(self._span_s, 1e-9), 1.0)))

    def _finished(self) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            self._events.stop()

    def _router_of(self, job: WorkerJob) -> SimulatedRouter:
        return self._routers[self._of_kind[job.variant][0].cascade.ref]

    def _done(self, _: SharedWorker, jobs: list[WorkerJob], seconds: float) -> None:
        if jobs:
            self._router_of(jobs[0]).made(jobs, seconds)

    def _failed(self, jobs: Sequence[WorkerJob]) -> None:
        by_router: dict[SimulatedRouter, list[WorkerJob]] = {}
        for job in jobs:
            by_router.setdefault(self._router_of(job), []).append(job)
        for router, own in by_router.items():
            router.failed(own)

    def _loaded(self, worker: SharedWorker) -> None:
        self._control.loaded(worker)


class ProductionSystem:
    """One run of a policy of the product; runs with one profile may share a ``planner``, which prepares it once."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        policy: str,
        planner: Planner,
        scorer: str | None = None,
    ) -> None:
        cascade = cascade_of(
            scenario.profile,
            workers=scenario.workers,
            objective_s=scenario.objective_s,
            policy=policy,
            scorer=scorer,
            hosting=None if scenario.turns is None else Hosting.SHARED,
            no_worse_than=scenario.no_worse_than,
            sizes=() if scenario.blind else tuple(scenario.sizes),
            standing=not scenario.elastic,
        )
        profile = with_switch_time(scenario.profile.sized or scenario.profile.profile, scenario.switch_s)
        default = cascade.spec.sizes[0]
        execution = sorted(profile.spec.execution, key=lambda row: row.size != default)
        profile = profile.model_copy(update={"spec": profile.spec.model_copy(update={"execution": execution})})
        self._simulation = Simulation(
            [Traffic(cascade, profile, scenario.trace, scenario.scores, scenario.sizes, scenario.blind)],
            accelerators=scenario.workers,
            planner=planner,
            seed=scenario.seed,
            turns=scenario.turns or Turns.SHORT_FIRST,
            failures=scenario.failures,
            elastic=scenario.elastic,
            no_nodes=scenario.no_nodes,
        )

    def run(self, progress: Progress) -> Run:
        """Play the trace to its end."""
        (run,) = self._simulation.run(progress)
        return run

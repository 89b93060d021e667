"""Small profiles and scenarios for tests of the simulator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from cascade_api.base import Metadata
from cascade_api.profile import CascadeProfile, Execution, Metric, ProfileSource, ProfileSpec, QualityRow
from cascade_api.settings import CPU, AcceleratorClass, PlannerSettings
from cascade_api.status import CascadeStatus
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.snapshot import SetStatus, Snapshot
from cascade_profiler.frontier.profiles import Charges, LoadedProfile, load_profile
from cascade_profiler.simulate.campaign import accelerator_class
from cascade_profiler.simulate.production import ProductionSystem
from cascade_profiler.simulate.runs import Failure, NoNodes, Run, Scenario
from cascade_profiler.simulate.scores import drawn_scores
from cascade_profiler.simulate.traces import Trace, load_trace
from cascade_profiler.simulate.turns import Turns

from .patience import patient_manifest

needs_reference = pytest.mark.skipif(
    not os.environ.get("CASCADE_REFERENCE_DATA"),
    reason="CASCADE_REFERENCE_DATA is not set: set it to the folder of the reference tables and traces",
)

GRID = (0, 50, 100)


def quality(direct: int, escalation: int) -> int:
    """Thousandths; better with every image that the heavy variant makes, and bilinear in the two shares."""
    heavy = direct / 100 + (1 - direct / 100) * escalation / 100
    return round(1000 * (10 + 10 * heavy))


def make_profile(
    *,
    light_s: float = 0.1,
    heavy_s: float = 1.0,
    batches: Mapping[int, float] | None = None,
    name: str = "small",
    alone: bool = False,
) -> LoadedProfile:
    """Two variants, ``light`` and ``heavy``, on class ``gpu``; ``batches`` are seconds of larger light batches.

    They are a chain, or each of them is one ``alone``.
    """
    times = {("light", 1): light_s, ("heavy", 1): heavy_s}
    times |= {("light", size): seconds for size, seconds in (batches or {}).items()}
    profile = CascadeProfile(
        metadata=Metadata(name=name),
        spec=ProfileSpec(
            source=ProfileSource(kind="estimated"),
            metrics=[Metric(name="score", direction="max")],
            objective_metric="score",
            execution=[
                Execution(
                    variant=variant,
                    accelerator_class="gpu",
                    size="32x32",
                    batch=batch,
                    p50_micros=round(seconds * 1e6),
                    p95_micros=round(seconds * 1e6),
                )
                for (variant, batch), seconds in times.items()
            ],
            quality=[
                QualityRow(chain=("light",), values_milli={"score": quality(0, 0)}),
                QualityRow(chain=("heavy",), values_milli={"score": quality(100, 0)}),
            ]
            if alone
            else [
                QualityRow(
                    chain=("light", "heavy"),
                    direct_percent=r,
                    escalation_percent=d,
                    values_milli={"score": quality(r, d)},
                )
                for r in GRID
                for d in GRID
            ],
        ),
    )
    return LoadedProfile(name, profile, Charges(profile))


def make_scenario(
    trace: str | Trace,
    *,
    profile: LoadedProfile | None = None,
    workers: int = 4,
    objective_s: float = 6.0,
    seed: int = 0,
    switch_s: float | None = 0.1,
    failures: tuple[Failure, ...] = (),
    turns: Turns | None = None,
) -> Scenario:
    """A scenario on the small profile."""
    return Scenario(
        profile=profile or make_profile(),
        trace=load_trace(trace, seed=seed) if isinstance(trace, str) else trace,
        scores=drawn_scores(["light", "heavy"], prompts=500, seed=seed),
        workers={"gpu": workers},
        objective_s=objective_s,
        seed=seed,
        switch_s=switch_s,
        failures=failures,
        turns=turns,
    )


def poisson_times(*, rate: float, count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Arrival times of a Poisson process."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, size=count))


def zero_manifest() -> str:
    """The example on two cores, parked when nobody has asked for ten seconds; any machine meets its objective."""
    policy = {"scaleToZeroAfter": "10s"}
    return patient_manifest(light_ms=240, heavy_ms=880, objective={"latency": "60s"}, policy=policy)


class Reporting(Planner):
    """A planner that keeps the statuses that it reports."""

    def __init__(self, settings: PlannerSettings, *, classes: Sequence[AcceleratorClass]) -> None:
        super().__init__(settings, classes=classes)
        self.statuses: list[CascadeStatus] = []

    def decide(self, snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        decision = super().decide(snapshot, memory, now)
        self.statuses += [action.status for action in decision.actions if isinstance(action, SetStatus)]
        return decision


def play_zero(
    folder: Path,
    times_s: Sequence[float],
    *,
    provision_s: int | None = None,
    no_nodes: tuple[NoNodes, ...] = (),
    planner: Planner | None = None,
) -> Run:
    """The product on `zero_manifest`, asked at these times; with ``provision_s``, Nodes come when they are needed."""
    elastic = accelerator_class(CPU.name, 2, provision_s)
    (folder / "zero.yaml").write_text(zero_manifest())
    scenario = Scenario(
        profile=load_profile(str(folder / "zero.yaml")),
        trace=Trace("given", np.asarray(times_s), np.arange(len(times_s))),
        scores=drawn_scores(["shapes-light", "shapes-heavy"], prompts=500, seed=0),
        workers={CPU.name: 2},
        objective_s=60.0,
        seed=0,
        elastic=() if provision_s is None else (elastic,),
        no_nodes=no_nodes,
    )
    planner = planner or Planner(PlannerSettings(), classes=[elastic])
    return ProductionSystem(scenario, policy="hybrid", planner=planner).run(lambda part: None)

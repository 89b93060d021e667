"""The published systems by their policy names, ready to run on a scenario."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from cascade_api.profile import ProfileSpec

from ...frontier.inputs import BadInput
from ...frontier.profiles import variants_of
from ...frontier.reference import FULL_GRID, reference_profile
from ..outcomes import DrawnRow
from ..runs import Scenario
from .clipper import PublishedClipper
from .diffserve import PublishedDiffServe, PublishedDiffServeStatic
from .hadis import PublishedHadis, PublishedHadisJsq, TableRow
from .planners import PublishedPlanner, PublishedTimes
from .proteus import PublishedProteus
from .system import PublishedSystem

_HADIS_TABLE: Final = "hadis-49"
_LIGHT_BATCH: Final = 8
_PEAK_WINDOW_S: Final = 10.0


def published_system(policy: str, scenario: Scenario) -> PublishedSystem:
    """The system of that name (one of PUBLISHED); raises BadInput if it cannot run on the scenario."""
    if len(scenario.workers) != 1:
        raise BadInput(policy, "knows one class of accelerators only", field="--workers")
    spec = scenario.profile.profile.spec
    (accelerator_class,) = scenario.workers
    seconds = {
        (row.variant, row.batch): row.p50_micros / 1e6
        for row in spec.execution
        if row.accelerator_class == accelerator_class
    }
    variants = sorted((name for name in variants_of(spec) if (name, 1) in seconds), key=lambda name: seconds[name, 1])
    if len(variants) < 2:
        raise BadInput(scenario.profile.name, f"times fewer than two variants on {accelerator_class}")
    times = PublishedTimes(seconds, quantum_s=scenario.objective_s / 60)
    return PublishedSystem(scenario, PUBLISHED[policy](scenario, spec, variants, times), times)


def _hadis(
    planner: type[PublishedHadis],
) -> Callable[[Scenario, ProfileSpec, list[str], PublishedTimes], PublishedPlanner]:
    def make(scenario: Scenario, spec: ProfileSpec, variants: list[str], times: PublishedTimes) -> PublishedPlanner:
        # As published, it chooses from its own table, even if the profile has a finer grid.
        table = reference_profile(_HADIS_TABLE).spec if scenario.profile.name == FULL_GRID else spec
        sign = -1 if table.direction == "min" else 1
        rows = [
            TableRow(
                DrawnRow(row.chain, row.direct, row.escalation),
                sign * row.values_milli[table.objective_metric] / 1000,
                row.values_milli[table.objective_metric] / 1000,
            )
            for row in table.quality
            if not row.alone
        ]
        return planner(
            rows,
            variants=variants,
            times=times,
            workers=scenario.total_workers,
            objective_s=scenario.objective_s,
        )

    return make


def _pair(variants: list[str]) -> tuple[str, str]:
    """The fixed pair: of four models the second and the last, as published; of two models both."""
    return variants[1 if len(variants) > 2 else 0], variants[-1]


def _diffserve(scenario: Scenario, spec: ProfileSpec, variants: list[str], times: PublishedTimes) -> PublishedPlanner:
    light, heavy = _pair(variants)
    return PublishedDiffServe(
        light=light,
        heavy=heavy,
        charges=scenario.profile.charges,
        times=times,
        workers=scenario.total_workers,
        objective_s=scenario.objective_s,
    )


def _diffserve_static(
    scenario: Scenario, spec: ProfileSpec, variants: list[str], times: PublishedTimes
) -> PublishedPlanner:
    light, heavy = _pair(variants)
    arrivals = scenario.trace.times_s
    later = np.searchsorted(arrivals, arrivals + _PEAK_WINDOW_S)
    peak = float(np.max(later - np.arange(len(arrivals)))) / _PEAK_WINDOW_S
    return PublishedDiffServeStatic(
        light=light,
        heavy=heavy,
        charges=scenario.profile.charges,
        times=times,
        workers=scenario.total_workers,
        objective_s=scenario.objective_s,
        peak_rate=peak,
    )


def _proteus(scenario: Scenario, spec: ProfileSpec, variants: list[str], times: PublishedTimes) -> PublishedPlanner:
    return PublishedProteus(
        variants=variants,
        minimise=spec.direction == "min",
        charges=scenario.profile.charges,
        times=times,
        workers=scenario.total_workers,
        objective_s=scenario.objective_s,
    )


def _all_light(scenario: Scenario, spec: ProfileSpec, variants: list[str], times: PublishedTimes) -> PublishedPlanner:
    return PublishedClipper(
        "all-light",
        variant=variants[0],
        batch=_LIGHT_BATCH,
        quality=scenario.profile.charges.alone(variants[0]),
        workers=scenario.total_workers,
        drop_after=1.5,
    )


def _all_heavy(scenario: Scenario, spec: ProfileSpec, variants: list[str], times: PublishedTimes) -> PublishedPlanner:
    return PublishedClipper(
        "all-heavy",
        variant=variants[-1],
        batch=1,
        quality=scenario.profile.charges.alone(variants[-1]),
        workers=scenario.total_workers,
        drop_after=1.0,
    )


PUBLISHED: Final[dict[str, Callable[[Scenario, ProfileSpec, list[str], PublishedTimes], PublishedPlanner]]] = {
    "all-light": _all_light,
    "all-heavy": _all_heavy,
    "proteus": _proteus,
    "diffserve": _diffserve,
    "diffserve-static": _diffserve_static,
    "hadis": _hadis(PublishedHadis),
    "hadis-jsq": _hadis(PublishedHadisJsq),
}

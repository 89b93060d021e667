"""Twenty cascades on one WorkerPool, against a pool for each of them, on accelerators of the same cluster.

The twenty most used models of a production trace, each as a cascade with the published profile (objective 60 s) and
with weights of its own: 7, 16, 5 and 16 GiB, and 11 GiB of components that its weights share, on workers of 80 GiB.
Loads take 2 s, starts 45 s. Requests arrive, with their numbers of images, as in the trace, which is compressed until
their work at the cheapest rows is that of six workers in the mean. Wanted is the least number of accelerators with
which at most 1 % of all images are late: of one shared pool at most half of what pools of their own need, at a quality
within 0.1.

    make bench-policy ARGS="--section pool"     (needs CASCADE_REFERENCE_DATA; takes an hour)
"""

from __future__ import annotations

import csv
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade_api.cascade import DiffusionCascade
from cascade_api.profile import CascadeProfile
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_api.workers import Hosting, WorkerPool
from cascade_operator.planning.planner import Planner
from cascade_profiler.frontier.profiles import LoadedProfile, load_profile
from cascade_profiler.frontier.reference import reference_folder
from cascade_profiler.simulate.cascades import cascade_of
from cascade_profiler.simulate.outcomes import Outcomes
from cascade_profiler.simulate.production import Simulation
from cascade_profiler.simulate.quality import realised_quality
from cascade_profiler.simulate.routers import Traffic
from cascade_profiler.simulate.runs import Run
from cascade_profiler.simulate.scores import reference_scores
from cascade_profiler.simulate.traces import PROMPTS, Trace
from cascade_router.cascade.state import Limits

TRACE = "trace_gentd26_first15days.csv"
CASCADES, MEAN_WORKERS, WORKER_GIB = 20, 6.0, 80
OBJECTIVE_S, LOAD_S, START_S = 60.0, 2.0, 45
GIB = {"sdxl-lightning": 7, "sd35-large-turbo": 16, "sd35-medium": 5, "sd35-large": 16}
PARTS_GIB = 11
CLASS = "nvidia-l40s"
IDLE = "1m"
WARM_UP_S = 120.0
LIMITS = Limits(waiting=100_000, in_hand=100_000)
"""Of a router: a thousand images, which is the default, are a few seconds of work here."""
LATE_PERCENT, QUALITY, PART = 1.0, 0.1, 0.5
SHARED, OWN = range(8, 20), range(14, 41, 2)


@dataclass(frozen=True)
class Figures:
    """What all cascades together got of a number of accelerators."""

    accelerators: int
    late_percent: float
    quality: float
    loads: int
    p50_s: float
    p99_s: float


def arrivals(cheapest_s: float) -> dict[str, list[float]]:
    """Seconds at which an image is asked for, by model, of the most used models."""
    with (reference_folder() / TRACE).open() as lines:
        rows = [(float(row["second"]), row["model"], int(row["images"] or 1)) for row in csv.DictReader(lines)]
    used = [model for model, _ in Counter(model for _, model, _ in rows).most_common(CASCADES)]
    chosen = [row for row in rows if row[1] in used]
    span_s = chosen[-1][0] - chosen[0][0]
    faster = span_s * MEAN_WORKERS / (cheapest_s * sum(images for _, _, images in chosen))
    found: dict[str, list[float]] = {model: [] for model in used}
    for second, model, images in chosen:
        found[model] += images * [(second - chosen[0][0]) / faster]
    return found


def profile_of(name: str, published: CascadeProfile) -> CascadeProfile:
    """The published profile, with the memory of a cascade's weights, its loads and starts."""
    parts = [{"name": f"parts-{name}", "memoryMiB": 1024 * PARTS_GIB}]
    told: dict[str, Any] = {
        **published.spec.wire(),
        "startup": [
            {"variant": v, "class": CLASS, "coldSeconds": START_S, "loadMillis": round(1000 * LOAD_S)} for v in GIB
        ],
        "memory": [
            {"variant": v, "class": CLASS, "restMiB": 1024 * size, "components": parts} for v, size in GIB.items()
        ],
    }
    return CascadeProfile.model_validate({"metadata": {"name": name}, "spec": told})


def cascade_on(name: str, published: LoadedProfile, workers: Mapping[str, object]) -> DiffusionCascade:
    """The published cascade with weights of its own."""
    made = cascade_of(
        published,
        workers={CLASS: 1},
        objective_s=OBJECTIVE_S,
        policy="hybrid",
        scorer=None,
        hosting=Hosting.SHARED,
    ).wire()
    spec = made["spec"]
    for variant in spec["variants"]:
        variant["model"] = {"source": f"hf://{name}/{variant['name']}", "revision": "published"}
        variant.pop("pools", None)
    spec |= {"workers": [workers], "profileRef": {"name": name}}
    spec["policy"] |= {"scaleToZeroAfter": IDLE}
    return DiffusionCascade.model_validate({**made, "metadata": {"name": name}})


def simulate(
    published: LoadedProfile, asked: Mapping[str, Sequence[float]], accelerators: int, *, shared: bool
) -> Figures:
    """All cascades on so many accelerators, on one pool or on pools of their own, of which each may use all."""
    pools = []
    if shared:
        workers = {"min": accelerators, "max": accelerators}
        spec = {"class": CLASS, "workers": workers}
        pools = [WorkerPool.model_validate({"metadata": {"name": "gpus"}, "spec": spec})]
    entry: dict[str, object] = {"pool": "gpus", "max": accelerators}
    own: dict[str, object] = {"name": "own", "class": CLASS, "max": accelerators, "hosting": "shared"}
    scores = reference_scores()
    traffics = []
    for number, (model, times) in enumerate(asked.items()):
        name = model.lower()
        cascade = cascade_on(name, published, entry if shared else own)
        cascade = cascade.model_copy(
            update={"spec": cascade.spec.on_pools({each.metadata.name: each.spec for each in pools})}
        )
        prompts = np.random.default_rng([number, 1]).integers(1, PROMPTS, size=len(times))
        trace = Trace(name, np.asarray(times), prompts)
        traffics.append(Traffic(cascade, profile_of(name, published.profile), trace, scores))
    accelerator = AcceleratorClass(name=CLASS, resource="nvidia.com/gpu", memory_mi_b=1024 * WORKER_GIB)
    simulation = Simulation(
        traffics,
        accelerators={CLASS: accelerators},
        planner=Planner(PlannerSettings(), classes=[accelerator]),
        seed=0,
        pools=pools,
        warm_up_s=WARM_UP_S,
        limits=LIMITS,
    )
    return figures_of(simulation.run(_told), published, accelerators)


def figures_of(runs: Sequence[Run], published: LoadedProfile, accelerators: int) -> Figures:
    """The figures over the requests of all cascades."""
    outcomes: list[Outcomes] = [run.outcomes for run in runs]
    late = np.concatenate([each.violations for each in outcomes])
    latency = np.concatenate([each.latency_s[~each.lost] for each in outcomes])
    quality = np.concatenate([realised_quality(each, published.charges) for each in outcomes])
    p50, p99 = np.quantile(latency, (0.5, 0.99))
    return Figures(
        accelerators, 100 * float(late.mean()), float(np.nanmean(quality)), runs[0].switches, float(p50), float(p99)
    )


def least(
    published: LoadedProfile, asked: Mapping[str, Sequence[float]], counts: Sequence[int], *, shared: bool
) -> list[Figures]:
    """The figures for each number of accelerators, until one is enough."""
    found: list[Figures] = []
    for count in counts:
        began = time.process_time()
        found.append(simulate(published, asked, count, shared=shared))
        print(f"{line(found[-1], shared=shared)}; {time.process_time() - began:.0f} CPU s", flush=True)
        if found[-1].late_percent <= LATE_PERCENT:
            break
    return found


def line(found: Figures, *, shared: bool) -> str:
    """One number of accelerators in words."""
    return (
        f"{found.accelerators:3d} accelerators, {'one shared pool' if shared else 'pools of their own'}: "
        f"late {found.late_percent:.3f} %, quality by request {found.quality:.3f}, {found.loads} loads, "
        f"p50 {found.p50_s:.1f} s, p99 {found.p99_s:.1f} s"
    )


def measure(shared: Sequence[int] = SHARED, own: Sequence[int] = OWN) -> None:
    """Print the least numbers of accelerators, and whether the target was reached."""
    published = load_profile("hadis-726")
    cheapest_s = min(row.p50_micros for row in published.profile.spec.execution if row.batch == 1) / 1e6
    asked = arrivals(cheapest_s)
    together = least(published, asked, shared, shared=True)[-1] if shared else None
    apart = least(published, asked, own, shared=False)[-1] if own else None
    if together is None or apart is None:
        return
    part, worse = together.accelerators / apart.accelerators, together.quality - apart.quality
    enough = max(together.late_percent, apart.late_percent) <= LATE_PERCENT
    reached = enough and part <= PART and worse <= QUALITY
    print(f"{'reached' if reached else 'MISSED'}: {part:.2f} of the accelerators, quality {worse:+.3f}")


_said = [time.monotonic()]


def _told(part: float) -> None:
    if time.monotonic() - _said[0] > 10:
        _said[0] = time.monotonic()
        sys.stderr.write(f"  {part:.0%}\n")

"""Large allocation problems from a published table: one cascade, many on several classes, many on one pool."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from cascade_api.cascade import DiffusionCascade
from cascade_api.profile import CascadeProfile
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_api.workers import Hosting
from cascade_operator.planning.allocation.problem import AllocationProblem
from cascade_operator.planning.allocation.sets import User, Weighed
from cascade_operator.planning.prepared import Prepared, prepare
from cascade_profiler.frontier.profiles import load_profile
from cascade_profiler.simulate.cascades import cascade_of

TABLE = "hadis-726"
CLASS = "nvidia-l40s"
OBJECTIVE_S = 6.0
GIB = {"sdxl-lightning": 7, "sd35-large-turbo": 16, "sd35-medium": 5, "sd35-large": 16}
PARTS_GIB = 11
"""Memory of the weights of a cascade on a shared pool, and of the components that all of them use."""
HEAVY_IMAGE_S = 2.7
"""Of the dearest model on the published accelerator."""


def published(*, workers: int) -> Prepared:
    """The published cascade of four variants, on accelerators of its class."""
    loaded = load_profile(TABLE)
    cascade = cascade_of(loaded, workers={CLASS: workers}, objective_s=OBJECTIVE_S, policy="hybrid", scorer=None)
    accelerator = AcceleratorClass(name=CLASS, resource="nvidia.com/gpu")
    return prepare(cascade, loaded.profile, settings=PlannerSettings(), classes=[accelerator])


def cluster(*, cascades: int, classes: int, accelerators: int, load: float, seed: int) -> AllocationProblem:
    """Cascades with demands, weights, objectives and classes of their own.

    ``load`` is the whole demand as a part of what all accelerators could serve with the dearest model.
    """
    rng = random.Random(seed)
    speed = {f"class-{i}": 0.4 * 1.35**i for i in range(classes)}
    parts = {name: rng.uniform(0.5, 1.5) for name in speed}
    counts = {name: int(accelerators * part / sum(parts.values())) for name, part in parts.items()}
    counts["class-0"] += accelerators - sum(counts.values())
    known = [
        AcceleratorClass(name=name, resource="nvidia.com/gpu", price_per_hour=f"{fast**0.9:.2f}")
        for name, fast in speed.items()
    ]
    loaded = load_profile(TABLE)
    profile = _on_classes(loaded.profile, speed)
    document = cascade_of(loaded, workers={CLASS: 1}, objective_s=OBJECTIVE_S, policy="hybrid", scorer=None).wire()
    capacity = sum(counts[name] * fast for name, fast in speed.items()) / HEAVY_IMAGE_S
    sizes = [rng.uniform(0.3, 2.0) for _ in range(cascades)]
    problems = []
    for number, size in enumerate(sizes):
        own = sorted(rng.sample(sorted(speed), rng.randint(3, classes)))
        cascade = DiffusionCascade.model_validate(_changed(document, number, own, counts, rng))
        prepared = prepare(cascade, profile, settings=PlannerSettings(), classes=known)
        demand = load * capacity * size / sum(sizes)
        problems.append(prepared.at(demand))
    return AllocationProblem(tuple(problems), counts, {c.name: float(c.price_per_hour) for c in known}, seed=seed)


def pool(*, cascades: int, load: float, seed: int) -> tuple[list[User], list[Weighed]]:
    """Cascades of the published profile that share workers, each with weights of its own, and all weights.

    ``load`` is the work of all by their cheapest rows, in workers' worth. The n-th most used has 1/n of the demand of
    the first.
    """
    loaded = load_profile(TABLE)
    cascade = cascade_of(
        loaded, workers={CLASS: 1}, objective_s=60.0, policy="hybrid", scorer=None, hosting=Hosting.SHARED
    )
    accelerator = AcceleratorClass(name=CLASS, resource="nvidia.com/gpu")
    hull = prepare(cascade, loaded.profile, settings=PlannerSettings(), classes=[accelerator]).hull
    if hull is None:
        raise ValueError(f"{TABLE} has no hull")
    rng = random.Random(seed)
    order = rng.sample(range(1, cascades + 1), cascades)
    whole = sum(1 / rank for rank in order)
    users, weights = [], []
    for number, rank in enumerate(order):
        own = replace(hull, weights={name: f"{name}-{number}" for name in hull.weights})
        demand = load / rank / whole / hull.corners[0].seconds
        users.append(User(own, {c.row: c.gain for c in hull.corners}, demand, 0.95, rng.choice([0.5, 1.0, 2.0])))
        parts = {f"parts-{number}": 1024 * PARTS_GIB}
        weights += [Weighed(own.weights[name], (name,), 1024 * size, parts, True) for name, size in GIB.items()]
    return users, weights


def _changed(
    document: dict[str, Any], number: int, classes: list[str], counts: dict[str, int], rng: random.Random
) -> dict[str, Any]:
    spec = document["spec"]
    return {
        **document,
        "metadata": {"name": f"cascade-{number}"},
        "spec": {
            **spec,
            "objective": {"latency": rng.choice(["6s", "8s", "12s"])},
            "workers": [{"name": name, "class": name, "max": counts[name]} for name in classes],
            "policy": {**spec["policy"], "weight": rng.choice([50, 100, 200])},
            "variants": [{key: value for key, value in v.items() if key != "pools"} for v in spec["variants"]],
        },
    }


def _on_classes(profile: CascadeProfile, speed: dict[str, float]) -> CascadeProfile:
    """The profile measured on every class, each faster than the published one by its factor."""
    spec = profile.spec
    execution = [
        row.model_copy(
            update={
                "accelerator_class": name,
                "p50_micros": round(row.p50_micros / fast),
                "p95_micros": round(row.p95_micros / fast),
            }
        )
        for name, fast in speed.items()
        for row in spec.execution
    ]
    discriminator = [row.model_copy(update={"accelerator_class": n}) for n in speed for row in spec.discriminator]
    startup = [row.model_copy(update={"accelerator_class": n}) for n in speed for row in spec.startup]
    update = {"execution": execution, "discriminator": discriminator, "startup": startup}
    return profile.model_copy(update={"spec": spec.model_copy(update=update)})

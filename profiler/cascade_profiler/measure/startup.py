"""Measures how long a variant takes to start: on a new replica, and in place of another variant."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cascade_api.profile import Startup
from cascade_models import repository
from cascade_models.manifest import ManifestVariant

from .places import Place, identity
from .progress import Progress
from .records import Records
from .replica import MeasuredReplica

STARTED = "started"


def step_name(variant: ManifestVariant) -> str:
    """The name of the step that measures a variant's start."""
    return f"{variant.name}, start"


def measure_startup(
    variants: Sequence[ManifestVariant],
    *,
    rounds: int,
    directory: Path,
    place: Place,
    records: Records,
    progress: Progress,
) -> list[Startup]:
    """Measure the seconds until a new replica has made its first image, and the milliseconds until a replica that
    served another variant has.

    If all variants have the same weights, a variant replaces itself. The results are medians of at least ``rounds``
    rounds, each of which is recorded.
    """
    repository.render(repository.models_of(variants), directory)
    rows = []
    for variant in variants:
        other = next((v for v in variants if v.model != variant.model), variant)
        key = {"model": identity(variant), "after": identity(other), "on": place.hardware}
        while len(records.values(STARTED, key)) < rounds:
            records.add(STARTED, key, _start(variant, other, directory, place))
        cold_s, load_s = (float(np.median(taken)) for taken in zip(*records.values(STARTED, key), strict=True))
        rows.append(
            Startup(
                variant=variant.name,
                accelerator_class=place.accelerator_class,
                cold_seconds=math.ceil(cold_s),
                load_millis=round(1000 * load_s),
            )
        )
        progress.done(step_name(variant), f"cold {cold_s:.2f} s, in place {load_s:.2f} s")
    return rows


def _start(variant: ManifestVariant, other: ManifestVariant, directory: Path, place: Place) -> tuple[float, float]:
    """Seconds of a cold start, and of a change from the other variant in place."""
    begun = time.monotonic()
    with MeasuredReplica(directory, core=place.timed_core, load=[variant.model]) as replica:
        replica.probe(variant.model, variant.settings)
        cold_s = time.monotonic() - begun
        replica.unload(variant.model)
        replica.load(other.model)
        replica.probe(other.model, other.settings)
        begun = time.monotonic()
        replica.unload(other.model)
        replica.load(variant.model)
        replica.probe(variant.model, variant.settings)
        return cold_s, time.monotonic() - begun

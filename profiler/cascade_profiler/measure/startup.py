"""How long a variant takes to come up: on a new replica, and in place of another variant."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from cascade_api.names import CPU_CLASS
from cascade_api.profile import Startup
from cascade_models import repository
from cascade_models.manifest import Variant

from . import samples
from .progress import Progress
from .replica import Replica

ROUNDS = 3


def step_name(variant: Variant) -> str:
    """How progress speaks of a variant's measurement."""
    return f"{variant.name}, start"


def measure_startup(variants: Sequence[Variant], *, directory: Path, core: int, progress: Progress) -> list[Startup]:
    """Seconds until a new replica has drawn its first image, and milliseconds until one that served another has."""
    repository.render(variants, directory)
    rows = []
    for variant in variants:
        other = next(v.name for v in variants if v.name != variant.name)
        cold: list[float] = []
        switched: list[float] = []
        for _ in range(ROUNDS):
            begun = time.monotonic()
            with Replica(directory, core=core, load=[variant.name]) as replica:
                replica.probe(variant.name)
                cold.append(time.monotonic() - begun)
                replica.unload(variant.name)
                replica.load(other)
                replica.probe(other)
                begun = time.monotonic()
                replica.unload(other)
                replica.load(variant.name)
                replica.probe(variant.name)
                switched.append(time.monotonic() - begun)
        cold_s, switch_s = samples.quantile(cold, 0.5), samples.quantile(switched, 0.5)
        rows.append(
            Startup(
                variant=variant.name,
                accelerator_class=CPU_CLASS,
                cold_seconds=math.ceil(cold_s),
                switch_millis=round(1000 * switch_s),
            )
        )
        progress.done(step_name(variant), f"cold {cold_s:.2f} s, in place {switch_s:.2f} s")
    return rows

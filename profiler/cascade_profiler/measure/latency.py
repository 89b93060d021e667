"""Time of one batch by variant and batch size, what the discriminator adds, and how long a variant takes to come up."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

from cascade_api.command import CommandFailed
from cascade_api.names import CPU_CLASS
from cascade_api.profile import DiscriminatorExecution, Execution, Startup
from cascade_models import repository
from cascade_models.manifest import Variant

from . import samples
from .progress import Progress
from .replica import Replica
from .workload import Workload

GATHER_US = 200_000
"""While measuring, a batch waits this long for its last request; complete ones leave at once."""
BLOCK = 8
"""Batches timed in a row, before the other kind has its turn."""
ROUNDS = 3
TRIES = 10
"""Blocks whose batches may fall apart in a row before the measurement is given up."""


def measured_model(variant: Variant, batch: int) -> Variant:
    """The variant as a model that takes batches of one size."""
    return dataclasses.replace(variant, name=f"{variant.name}-b{batch}", batch=batch)


def measure_execution(
    replica: Replica, variant: Variant, batch: int, workload: Workload, *, seconds: float, confidence: bool
) -> tuple[Execution, samples.Timing, samples.Timing | None]:
    """The row of a batch size, its timing and, where ``confidence``, what the discriminator adds to it.

    Batches with and without confidence take turns, so that a change of the machine's speed meets both.
    """
    model = measured_model(variant, batch).name
    replica.load(model)
    kinds = (False, True) if confidence else (False,)
    for kind in kinds:
        _block(replica, model, workload, batch, confidence=kind)
    taken: dict[bool, list[float]] = {kind: [] for kind in kinds}
    until = time.monotonic() + seconds
    while time.monotonic() < until or min(map(len, taken.values())) < samples.LEAST:
        if all(map(samples.enough, taken.values())):
            break
        for kind in kinds:
            taken[kind] += _block(replica, model, workload, batch, confidence=kind)
    plain = samples.timing(taken[False])
    row = Execution(
        variant=variant.name,
        accelerator_class=CPU_CLASS,
        batch=batch,
        p50_micros=plain.p50_micros,
        p95_micros=plain.p95_micros,
        memory_mi_b=replica.memory_mib(),
    )
    replica.unload(model)
    return row, plain, samples.difference(samples.timing(taken[True]), plain) if confidence else None


def _block(replica: Replica, model: str, workload: Workload, batch: int, *, confidence: bool) -> list[float]:
    for _ in range(TRIES):
        taken = replica.time_batches(model, workload, batch=batch, count=BLOCK, confidence=confidence)
        if taken is not None:
            return taken
    raise CommandFailed(f"{model}: the server does not form batches of {batch}: end other work, and try again")


def measure_executions(
    variants: Sequence[Variant],
    batches: Sequence[int],
    workload: Workload,
    *,
    judged: str,
    directory: Path,
    core: int,
    seconds: float,
    progress: Progress,
) -> tuple[list[Execution], list[DiscriminatorExecution]]:
    """Rows of every variant and batch size, and the discriminator's, measured on images of the variant ``judged``."""
    models = [measured_model(variant, batch) for variant in variants for batch in batches]
    repository.render(models, directory, queue_delay_us=GATHER_US)
    rows: list[Execution] = []
    extra: list[DiscriminatorExecution] = []
    with Replica(directory, core=core) as replica:
        for variant in variants:
            for batch in batches:
                row, plain, added = measure_execution(
                    replica, variant, batch, workload, seconds=seconds, confidence=variant.name == judged
                )
                rows.append(row)
                told = f"{plain.p50_micros / 1000:.2f} ms (p95 {plain.p95_micros / 1000:.2f}, {plain.count} batches)"
                if added is not None:
                    extra.append(
                        DiscriminatorExecution(
                            accelerator_class=CPU_CLASS,
                            batch=batch,
                            p50_micros=added.p50_micros,
                            p95_micros=added.p95_micros,
                        )
                    )
                    told += f", confidence {added.p50_micros / 1000:.2f} ms"
                progress.done(step_name(variant, batch), told)
    return rows, extra


def step_name(variant: Variant, batch: int) -> str:
    """How progress speaks of one measurement."""
    return f"{variant.name}, batch {batch}"


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
        progress.done(f"{variant.name}, start", f"cold {cold_s:.2f} s, in place {switch_s:.2f} s")
    return rows

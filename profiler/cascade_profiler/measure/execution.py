"""Time of one batch by variant and batch size, and what the discriminator adds to it.

All batch sizes of all variants take turns, a few batches each: the speed of a machine changes over seconds, and so
every figure sees the same changes and their ratios hold.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from cascade_api.command import CommandFailed
from cascade_api.names import CPU_CLASS
from cascade_api.profile import DiscriminatorExecution, Execution
from cascade_models import repository
from cascade_models.manifest import Variant

from . import samples
from .progress import Progress
from .replica import Replica
from .workload import Workload

GATHER_US = 200_000
"""While measuring, a batch waits this long for its last request; complete ones leave at once."""
BLOCK = 4
"""Batches timed in a row, before another cell has its turn."""
TRIES = 10
"""Blocks whose batches may fall apart in a row before the measurement is given up."""
STEP = "timing"


@dataclasses.dataclass
class Cell:
    """One batch size of one variant, with or without confidence, and the seconds that its batches took."""

    variant: Variant
    batch: int
    confidence: bool
    taken_s: list[float] = dataclasses.field(default_factory=list)

    @property
    def model(self) -> str:
        return measured_model(self.variant, self.batch).name

    def run(self, replica: Replica, workload: Workload) -> list[float]:
        """Time a few batches in a row; raises CommandFailed where the server does not form them."""
        for _ in range(TRIES):
            taken = replica.time_batches(
                self.model, workload, batch=self.batch, count=BLOCK, confidence=self.confidence
            )
            if taken is not None:
                return taken
        raise CommandFailed(
            f"{self.model}: the server does not form batches of {self.batch}: end other work, try again"
        )


def measured_model(variant: Variant, batch: int) -> Variant:
    """The variant as a model that takes batches of one size."""
    return dataclasses.replace(variant, name=f"{variant.name}-b{batch}", batch=batch)


def measure_execution(
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
    """Rows of every variant and batch size, and the discriminator's, measured on images of the variant ``judged``.

    Ends when every median is known well enough or ``seconds`` are over, but not before there is a median at all.
    """
    models = [measured_model(variant, batch) for variant in variants for batch in batches]
    repository.render(models, directory, queue_delay_us=GATHER_US)
    plain = [Cell(variant, batch, confidence=False) for variant in variants for batch in batches]
    judging = [Cell(cell.variant, cell.batch, confidence=True) for cell in plain if cell.variant.name == judged]
    with Replica(directory, core=core, load=[model.name for model in models]) as replica:
        for cell in (*plain, *judging):
            cell.run(replica, workload)
        begun = time.monotonic()
        while not all(samples.enough(cell.taken_s) for cell in (*plain, *judging)):
            for cell in (*plain, *judging):
                cell.taken_s += cell.run(replica, workload)
            spent = time.monotonic() - begun
            progress.at(STEP, min(1.0, spent / seconds), max(0.0, seconds - spent))
            if spent > seconds and len(plain[0].taken_s) >= samples.LEAST:
                break
        rows = [_row(cell, replica.memory_mib(cell.model)) for cell in plain]
    for cell, row in zip(plain, rows, strict=True):
        told = f"{row.p50_micros / 1000:.2f} ms, p95 {row.p95_micros / 1000:.2f} ms ({len(cell.taken_s)} batches)"
        progress.done(STEP, f"{cell.variant.name}, batch {cell.batch}: {told}")
    without = {cell.batch: samples.timing(cell.taken_s) for cell in plain if cell.variant.name == judged}
    added = [_added(cell, without[cell.batch]) for cell in judging]
    for extra in added:
        progress.done(STEP, f"confidence, batch {extra.batch}: {extra.p50_micros / 1000:.2f} ms")
    return rows, added


def _row(cell: Cell, memory_mib: int) -> Execution:
    timing = samples.timing(cell.taken_s)
    return Execution(
        variant=cell.variant.name,
        accelerator_class=CPU_CLASS,
        batch=cell.batch,
        p50_micros=timing.p50_micros,
        p95_micros=timing.p95_micros,
        memory_mi_b=memory_mib,
    )


def _added(cell: Cell, without: samples.Timing) -> DiscriminatorExecution:
    timing = samples.difference(samples.timing(cell.taken_s), without)
    return DiscriminatorExecution(
        accelerator_class=CPU_CLASS, batch=cell.batch, p50_micros=timing.p50_micros, p95_micros=timing.p95_micros
    )

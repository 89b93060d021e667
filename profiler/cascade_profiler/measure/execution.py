"""Measures the time of a batch for each variant and batch size, and the time that the discriminator adds.

On a CPU, all batch sizes of all variants take turns, a few batches at a time. The speed of a machine changes within
seconds; this way every figure is exposed to the same changes, and their ratios are right. On an accelerator, one model
is loaded and measured after the other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_api.command import CommandFailed
from cascade_api.profile import DiscriminatorExecution, Execution
from cascade_models import repository
from cascade_models.manifest import ManifestVariant
from cascade_models.recipe import Recipe

from . import samples
from .places import Place, identity
from .progress import Progress
from .records import Records
from .replica import MeasuredReplica, ReplicaOutOfMemory
from .workload import Workload

GATHER_US = 200_000
"""How long, in microseconds, an incomplete batch waits for more requests; a complete one starts at once."""
BLOCK = 4
"""How many batches are timed in a row before it is another cell's turn."""
TRIES = 10
"""How often in a row the server may form other batches than wanted before the measurement fails."""
STEP = "timing"
TAKEN, SPENT, MEMORY, LIMIT = "taken", "spent", "memory", "limit"

Render = Callable[[Mapping[str, Recipe], Path], object]
"""Writes the model repository of these models into a folder."""


def render_measured(models: Mapping[str, Recipe], directory: Path) -> object:
    """Write a repository whose models wait until their batches are complete."""
    return repository.render(models, directory, queue_delay_us=GATHER_US)


@dataclasses.dataclass(frozen=True)
class Task:
    """What to time: variants and batch sizes, and the variant, if any, that is also timed with confidence.

    A variant whose settings name a size is timed at that one, and else at its default size, where confidence is timed.
    """

    variants: Sequence[ManifestVariant]
    batches: Sequence[int]
    judged: str | None
    seconds: float


@dataclasses.dataclass
class Cell:
    """One batch size of one variant, with or without confidence, and the seconds that its batches took."""

    variant: ManifestVariant
    batch: int
    confidence: bool
    taken_s: list[float] = dataclasses.field(default_factory=list)
    memory_mib: int | None = None
    finished: bool = False

    @property
    def model(self) -> str:
        """Name of the model: one for each weights and batch size."""
        return f"{self.variant.model}-b{self.batch}"

    @property
    def known(self) -> bool:
        """Whether the cell has been measured completely."""
        return self.memory_mib is not None and (self.finished or samples.enough(self.taken_s))

    def run(self, replica: MeasuredReplica, workload: Workload) -> list[float]:
        """Time a few batches in a row; raises CommandFailed if the server does not form batches of this size."""
        for _ in range(TRIES):
            taken = replica.time_batches(
                self.model,
                self.variant.settings,
                workload,
                batch=self.batch,
                count=BLOCK,
                confidence=self.confidence,
            )
            if taken is not None:
                return taken
        raise CommandFailed(
            f"{self.variant.name}: the server does not form batches of {self.batch}: stop other programs and try again"
        )


class ExecutionMeasurement:
    """Measures execution times: it uses what is on record, and adds what is missing."""

    def __init__(
        self,
        task: Task,
        workload: Workload,
        *,
        place: Place,
        directory: Path,
        records: Records,
        progress: Progress,
        render: Render = render_measured,
    ) -> None:
        self._task = task
        self._workload = workload
        self._place = place
        self._directory = directory
        self._records = records
        self._progress = progress
        self._render = render
        self._limits: dict[tuple[str, str], int] = {}
        self._cells = [self._recall(v, b, confidence=False) for v in task.variants for b in task.batches]
        self._cells += [
            self._recall(v, b, confidence=True) for v in task.variants for b in task.batches if self._judges(v)
        ]

    def measure(self) -> tuple[list[Execution], list[DiscriminatorExecution]]:
        """The rows of each variant and batch size, and the time that judging adds to batches of the judged variant.

        The measurement ends when every median is known well enough, or when the task's seconds are over and every cell
        has a median. If memory runs out at a batch size, that size and larger ones are left out for the variant.
        Raises CommandFailed if batch 1 does not fit into memory.
        """
        for variant in self._task.variants:
            for limit in self._records.values(LIMIT, self._key(variant)):
                self._limited(variant, limit["batch"], limit["why"], again=True)
        for group in self._groups():
            self._measure(group)
        plain, judging = ([c for c in self._fitting() if c.confidence == judged] for judged in (False, True))
        rows = no_shorter_than_smaller([self._row(cell) for cell in plain])
        for cell, row in zip(plain, rows, strict=True):
            figures = ", ".join(f"{name} {micros / 1000:.2f} ms" for name, micros in _quantiles(row))
            batches = f"{len(cell.taken_s)} batches, {cell.memory_mib} MiB"
            self._progress.done(STEP, f"{cell.variant.name}, {row.size}, batch {cell.batch}: {figures} ({batches})")
        without = {cell.batch: samples.timing(cell.taken_s) for cell in plain if self._judges(cell.variant)}
        added = [self._added(cell, without[cell.batch]) for cell in judging]
        for extra in added:
            self._progress.done(STEP, f"confidence, batch {extra.batch}: {extra.p50_micros / 1000:.2f} ms")
        return rows, added

    def _groups(self) -> list[list[Cell]]:
        """Groups of cells that are measured in turns on one server."""
        if self._place.timed_core is not None:
            return [self._cells]
        models = dict.fromkeys(cell.model for cell in self._cells)
        return [[cell for cell in self._cells if cell.model == model] for model in models]

    def _measure(self, group: Sequence[Cell]) -> None:
        wanted = [cell for cell in group if self._fits(cell) and not cell.known]
        if not wanted:
            return
        models = {cell.model: _recipe(cell, wanted) for cell in wanted}
        self._render(models, self._directory)
        before_mib = self._place.memory_mib()
        with MeasuredReplica(self._directory, core=self._place.timed_core, load=list(models)) as replica:
            for cell in wanted:
                self._guarded(cell, replica)
            budget_s = self._task.seconds * len(wanted) / len(self._cells)
            begun = time.monotonic() - sum(sum(cell.taken_s) for cell in wanted)
            while not all(cell.finished or samples.enough(cell.taken_s) for cell in wanted if self._fits(cell)):
                for cell in wanted:
                    taken = self._guarded(cell, replica)
                    cell.taken_s += taken
                    if taken:
                        self._records.add(TAKEN, self._cell_key(cell), taken)
                spent = time.monotonic() - begun
                self._progress.at(STEP, min(1.0, spent / budget_s), max(0.0, budget_s - spent))
                if spent > budget_s and all(len(c.taken_s) >= samples.LEAST for c in wanted if self._fits(c)):
                    break
            for cell in wanted:
                if self._fits(cell):
                    on_accelerator = self._place.memory_mib() - before_mib
                    cell.memory_mib = on_accelerator or replica.memory_mib(cell.model)
                    self._records.add(MEMORY, self._cell_key(cell), cell.memory_mib)
                    self._records.add(SPENT, self._cell_key(cell), self._task.seconds)

    def _guarded(self, cell: Cell, replica: MeasuredReplica) -> list[float]:
        """Time a few batches of a cell. If memory runs out, record the limit of its variant and return no timings."""
        if not self._fits(cell):
            return []
        try:
            return cell.run(replica, self._workload)
        except ReplicaOutOfMemory as error:
            self._limited(cell.variant, cell.batch, str(error), again=False)
            self._records.add(LIMIT, self._key(cell.variant), {"batch": cell.batch, "why": str(error)})
            replica.unload(cell.model)
            return []

    def _limited(self, variant: ManifestVariant, batch: int, why: str, *, again: bool) -> None:
        if batch == 1:
            raise CommandFailed(
                f"{variant.name} does not fit into the memory of class {self._place.accelerator_class}, even one "
                f"image at a time ({why}): choose a smaller precision or size, or another class"
            )
        key = (variant.name, variant.settings.size)
        self._limits[key] = min(batch, self._limits.get(key, batch))
        found = "on record" if again else why
        self._progress.done(
            STEP, f"{variant.name}: batch {batch} is out of memory ({found}); smaller ones are measured"
        )

    def _fits(self, cell: Cell) -> bool:
        return cell.batch < self._limits.get((cell.variant.name, cell.variant.settings.size), cell.batch + 1)

    def _judges(self, variant: ManifestVariant) -> bool:
        """Whether the confidence of a variant's images is timed, too."""
        return variant.name == self._task.judged and not variant.settings.size

    def _fitting(self) -> list[Cell]:
        return [cell for cell in self._cells if self._fits(cell)]

    def _recall(self, variant: ManifestVariant, batch: int, *, confidence: bool) -> Cell:
        """A cell with the timings that are on record."""
        cell = Cell(variant, batch, confidence)
        key = self._cell_key(cell)
        cell.taken_s = [taken for block in self._records.values(TAKEN, key) for taken in block]
        cell.memory_mib = next(iter(self._records.values(MEMORY, key)), None)
        cell.finished = any(spent >= self._task.seconds for spent in self._records.values(SPENT, key))
        return cell

    def _key(self, variant: ManifestVariant) -> dict[str, Any]:
        return {"model": identity(variant), "class": self._place.accelerator_class, "on": self._place.hardware}

    def _cell_key(self, cell: Cell) -> dict[str, Any]:
        return {**self._key(cell.variant), "batch": cell.batch, "confidence": cell.confidence}

    def _row(self, cell: Cell) -> Execution:
        timing = samples.timing(cell.taken_s)
        return Execution(
            variant=cell.variant.name,
            accelerator_class=self._place.accelerator_class,
            size=cell.variant.settings.size or cell.variant.sizes[0],
            batch=cell.batch,
            p50_micros=timing.p50_micros,
            p95_micros=timing.p95_micros,
            p99_micros=timing.p99_micros,
            memory_mi_b=cell.memory_mib or 0,
        )

    def _added(self, cell: Cell, without: samples.Percentiles) -> DiscriminatorExecution:
        timing = samples.difference(samples.timing(cell.taken_s), without)
        return DiscriminatorExecution(
            accelerator_class=self._place.accelerator_class,
            batch=cell.batch,
            p50_micros=timing.p50_micros,
            p95_micros=timing.p95_micros,
        )


def no_shorter_than_smaller(rows: Sequence[Execution]) -> list[Execution]:
    """The rows of several variants, where no batch takes less than a smaller one of its variant and size.

    Batches of small models take nearly the same whatever their size, so that chance may find the larger one quicker. It
    then gets the times of the smaller one, as no profile with such a contradiction could be used.
    """
    longest: dict[tuple[str, str], Execution] = {}
    found: dict[tuple[str, str, int], Execution] = {}
    for row in sorted(rows, key=lambda row: row.batch):
        least = longest.get((row.variant, row.size))
        if least is not None:
            at_least = {name: max(value, dict(_quantiles(least))[name]) for name, value in _quantiles(row)}
            row = row.model_copy(update={f"{name}_micros": value for name, value in at_least.items()})
        longest[row.variant, row.size] = found[row.variant, row.size, row.batch] = row
    return [found[row.variant, row.size, row.batch] for row in rows]


def _recipe(cell: Cell, cells: Sequence[Cell]) -> Recipe:
    """The recipe of a cell's model, for all variants among ``cells`` that use it."""
    variants = {other.variant.name: other.variant for other in cells if other.model == cell.model}
    return dataclasses.replace(repository.recipe_of(list(variants.values())), batch=cell.batch)


def _quantiles(row: Execution) -> list[tuple[str, int]]:
    return [("p50", row.p50_micros), ("p95", row.p95_micros), ("p99", row.p99_micros or row.p95_micros)]

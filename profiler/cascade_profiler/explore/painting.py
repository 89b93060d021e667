"""Draws and judges images through a real Triton, and says what is known of the settings that made them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import typer

from cascade_api.cascade import DiffusionCascade
from cascade_models.manifest import ManifestVariant

from ..measure import execution, profiling, quality
from ..measure.metrics import Judge
from ..measure.places import Place, identity
from ..measure.progress import Progress
from ..measure.records import Records
from ..measure.workload import Workload
from .prices import prices, to_time
from .rounds import Round, price
from .rows import Evidence
from .searching import Found

PRICES: Final = "prices"
PRICING_S: Final = 20.0
"""Seconds in which the settings of `prices.to_time` are timed."""
SLACK: Final = 1.5
"""Wall-clock seconds per accelerator-second while images are drawn: judging them and loading models takes time too."""


@dataclass(frozen=True)
class Exploration:
    """What is explored.

    Attributes:
        text: the manifest.
        tried: the settings that are tried, as variants.
        choosing: the prompts by which settings are chosen.
        reporting: as many other prompts.
        objective: the metric by which settings are chosen, a mean over images.
        most: the most settings to keep.
        profile_s: expected seconds of measuring the profile of the kept settings, without images.
    """

    text: str
    cascade: DiffusionCascade
    tried: Sequence[ManifestVariant]
    choosing: Workload
    reporting: Workload
    judges: Sequence[Judge]
    objective: str
    place: Place
    most: int
    profile_s: float


class Painter:
    """Draws and judges images through a real Triton, and says what is known of them; it uses what is on record."""

    def __init__(self, what: Exploration, directory: Path, records: Records) -> None:
        self._what = what
        self._directory = directory
        self._records = records
        self._tried = {one.name: dataclasses.replace(one, batch=profiling.GENERATION_BATCH) for one in what.tried}
        means = {metric.name: metric for judge in what.judges for metric in judge.means}
        self.sign = -1.0 if means[what.objective].direction == "min" else 1.0
        self.seconds, self._judging_s = self._prices()

    def draw(self, names: Sequence[str], rounds: Sequence[Round]) -> Evidence:
        """What is known of some settings after the prompts of the first round; see `searching.Draw`."""
        this, *further = rounds
        later_s = price(further, [self.wall_s[name] for name in names], most=self._what.most, drawn=this.prompts)
        typer.echo(f"{len(names)} settings, {this.prompts} prompts:")
        return self._evidence(names, self._what.choosing.part(0, this.prompts), later_s)

    def report(self, found: Found) -> Evidence:
        """What is known of the kept settings from other prompts."""
        typer.echo(f"{len(found.kept)} settings, {found.evidence.prompts} other prompts:")
        workload = self._what.reporting.part(0, found.evidence.prompts)
        return self._evidence(list(found.kept), workload, 0.0)

    @property
    def wall_s(self) -> dict[str, float]:
        """Wall-clock seconds of an image by setting, at `SLACK` times its accelerator-seconds."""
        return {name: SLACK * seconds / len(self._what.place.drawing_cores) for name, seconds in self.seconds.items()}

    def _evidence(self, names: Sequence[str], workload: Workload, later_s: float) -> Evidence:
        images = {quality.images_step(self._tried[name]): self.wall_s[name] * len(workload.prompts) for name in names}
        drawing = quality.Drawing(
            workload,
            self._what.judges,
            directory=self._directory / "drawing",
            place=self._what.place,
            records=self._records,
            progress=Progress({**images, "later": later_s + self._what.profile_s}),
        )
        judged = drawing.measure([self._tried[name] for name in names])
        return Evidence(
            tuple(names),
            np.array([self.seconds[name] for name in names]),
            self._judging_s,
            np.stack([self.sign * judged[name].side.values[self._what.objective] for name in names]),
            np.stack([judged[name].confidence for name in names]),
            profiling.hardness_of(self._what.cascade, workload),
        )

    def _prices(self) -> tuple[dict[str, float], float]:
        """Accelerator-seconds of an image by setting, and of a judgement.

        They are recorded as a whole: later timings of the same settings, for a profile, shall not change the choice.
        """
        place = self._what.place
        names = {"tried": [identity(one) for one in self._what.tried], "on": place.hardware}
        key = {**names, "class": place.accelerator_class}
        for seconds, judging_s in self._records.values(PRICES, key):
            return seconds, judging_s
        timed = to_time(self._what.tried)
        cheapest = min(timed, key=lambda one: one.settings.steps).name
        timing = execution.ExecutionMeasurement(
            execution.Task(timed, (1,), judged=cheapest, seconds=PRICING_S),
            self._what.choosing,
            place=self._what.place,
            directory=self._directory / "timing",
            records=self._records,
            progress=Progress({execution.STEP: PRICING_S}),
        )
        with profiling.off_timed_core(self._what.place):
            rows, added = timing.measure()
        timed_s = {row.variant: row.p50_micros / 1e6 for row in rows}
        found = prices(self._what.tried, timed_s), added[0].p50_micros / 1e6
        self._records.add(PRICES, key, found)
        return found

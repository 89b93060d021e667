"""Chooses a row of the plan for each prompt, and decides whether it goes direct and whether its light image is
accepted.

The shares come from the plan. The thresholds are quantiles of what this router has seen lately: the hardness of all
prompts, and the confidence of the light images of each row. For example, if the plan says that 20 % of the prompts go
direct, those above the 80 % quantile of the hardness do. The state has a fixed size and survives a change of plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cascade_api.plan import Plan, PlanRow

from ..prompts.quantiles import SEEDS_ALONE, LiveCut
from ..prompts.scorers import Scorer
from ..prompts.shares import DIRECT_STEP, ESCALATION_STEP, ROW_STEP, EvenDraws, draw_row

CONFIDENCE_CUTS: Final = 16
"""Number of rows whose confidences are remembered; the one that was not used for longest is forgotten first."""
_UNSURE: Final = (-1.0, 0.0)
"""The distribution of negated confidences before any was seen: uniform between these two."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The row that was drawn for a prompt, the prompt's hardness, and whether it goes direct."""

    row: PlanRow
    hardness: float
    direct: bool


class Chooser:
    """Turns the plan's shares into decisions on single prompts, for one cascade.

    Args:
        scorer: computes the hardness of a prompt.
        start: where the evenly spaced draws begin, in [0, 1); it differs between routers.
    """

    def __init__(self, *, scorer: Scorer, start: float = 0.0) -> None:
        self._rows = EvenDraws(step=ROW_STEP, start=start)
        self._direct = EvenDraws(step=DIRECT_STEP, start=start)
        self._escalation = EvenDraws(step=ESCALATION_STEP, start=start)
        self._confidence: dict[tuple[str, float], LiveCut] = {}
        self.use_scorer(scorer)

    def use_scorer(self, scorer: Scorer) -> None:
        """Use another scorer from now on, and forget the hardness seen: scores of two scorers cannot be compared."""
        self._scorer = scorer
        self._hardness = LiveCut(seeds=scorer.quantiles)

    def choose(self, plan: Plan, prompt: str, *, coin: float) -> Choice:
        """Draw a row for the prompt, and decide whether it goes direct; ``coin`` is random in [0, 1)."""
        row = plan.rows[draw_row([row.share for row in plan.rows], self._rows.next())]
        hardness = self._scorer.score(prompt, draw=coin)
        direct = self._hardness.pick(
            hardness,
            share=row.direct,
            seed_threshold=row.seed_thresholds.hardness if row.seed_thresholds else None,
            draw=self._direct.next(),
        )
        return Choice(row, hardness, direct)

    def escalates(self, row: PlanRow, confidence: float) -> bool:
        """Whether a light image of ``row`` is in the share of least confidence that the plan wants made again."""
        return self._cut(row).pick(
            -confidence,
            share=row.escalation,
            seed_threshold=-row.seed_thresholds.confidence if row.seed_thresholds else None,
            draw=self._escalation.next(),
        )

    def hardness_quantiles(self, points: int) -> list[float]:
        """Evenly spaced quantiles of the live hardness; empty until enough prompts were seen."""
        return self._hardness.snapshot(points) if self._hardness.count >= SEEDS_ALONE else []

    def confidence_quantiles(self, points: int) -> dict[str, list[float]]:
        """Evenly spaced quantiles of the live confidence by light variant, of its latest row with enough images."""
        return {
            light: [-value for value in reversed(cut.snapshot(points))]
            for (light, _), cut in self._confidence.items()
            if cut.count >= SEEDS_ALONE
        }

    def _cut(self, row: PlanRow) -> LiveCut:
        # The direct share decides which prompts are left to the light model, and so how confidences are distributed.
        key = (row.light, round(row.direct, 2))
        cut = self._confidence.pop(key, None)
        if cut is None:
            alike = [known for known in self._confidence if known[0] == row.light]
            nearest = min(alike, key=lambda known: abs(known[1] - key[1]), default=None)
            cut = LiveCut(seeds=_UNSURE, scores=self._confidence[nearest].recent if nearest else ())
        self._confidence[key] = cut  # most recently used last
        if len(self._confidence) > CONFIDENCE_CUTS:
            del self._confidence[next(iter(self._confidence))]
        return cut

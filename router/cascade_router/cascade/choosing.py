"""Chooses a row of the plan for each prompt, and decides whether it goes direct and whether its light image is
accepted.

The shares come from the plan. The thresholds are quantiles of what this router has seen lately: the hardness of all
prompts, and the confidence of the light images of each row. For example, if the plan says that 20 % of the prompts go
direct, those above the 80 % quantile of the hardness do. The state has a fixed size and survives a change of plan.

A client may choose by a tier or by settings (`Wish`). A request with a tier takes the plan's row for that tier, and the
planner knows how many do. One that names settings gets the variant that has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cascade_api.plan import Plan, PlanRow, PlanVariant, Tier

from ..prompts.quantiles import SEEDS_ALONE, LiveCut
from ..prompts.scorers import Scorer
from ..prompts.shares import DIRECT_STEP, ESCALATION_STEP, ROW_STEP, EvenDraws, draw_row

CONFIDENCE_CUTS: Final = 16
"""Number of rows whose confidences are remembered; the one that was not used for longest is forgotten first."""
_UNSURE: Final = (-1.0, 0.0)
"""The distribution of negated confidences before any was seen: uniform between these two."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client says about the model that makes its image; without any of it, the plan decides.

    With ``steps`` or ``guidance``, only a variant that has these settings makes the image. With a tier, the plan's row
    for it decides instead of those for everybody, if there is a worker for it. With ``lora``, the name of an adapter,
    only variants that have it make the image; with ``edits`` (an image is given), only those that edit.
    """

    tier: Tier = "auto"
    steps: int | None = None
    guidance: float | None = None
    lora: str = ""
    edits: bool = False

    @property
    def names_settings(self) -> bool:
        return self.steps is not None or self.guidance is not None

    @property
    def leaves_it_to_the_plan(self) -> bool:
        """Whether the plan alone decides which variant makes the image."""
        return self == NO_WISH

    def fits(self, variant: PlanVariant) -> bool:
        """Whether a variant has the settings and the adapter that are named."""
        settings = variant.settings
        own_guidance = None if settings.guidance is None else float(settings.guidance)
        settles = self.steps in (None, settings.steps) and self.guidance in (None, own_guidance)
        return settles and self.is_met_by(variant)

    @property
    def needs_ability(self) -> bool:
        """Whether it needs something that not every variant has, whatever its settings."""
        return bool(self.lora) or self.edits

    def is_met_by(self, variant: PlanVariant) -> bool:
        """Whether a variant has the adapter that is named, and edits, as far as that is needed."""
        return self.has_adapter(variant) and (variant.edits or not self.edits)

    def has_adapter(self, variant: PlanVariant) -> bool:
        """Whether a variant has the adapter that is named, if one is."""
        return not self.lora or self.lora in variant.adapters


NO_WISH: Final = Wish()


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

    def choose(self, plan: Plan, prompt: str, *, coin: float, wish: Wish = NO_WISH) -> Choice:
        """Draw a row for the prompt, and decide whether it goes direct; ``coin`` is random in [0, 1)."""
        row = _of_tier(plan, wish) or plan.rows[draw_row([row.share for row in plan.rows], self._rows.next())]
        hardness = self._scorer.score(prompt, draw=coin)
        if wish.names_settings or not _all_meet(plan, row, wish):
            alone = _alone(plan, row, wish)
            return Choice(alone, hardness, direct=True)
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


def why_no_variant(plan: Plan, wish: Wish) -> tuple[str, str] | None:
    """What of a wish no variant of the plan has, and the values that it can have; None if one has all of it."""
    if not (wish.names_settings or wish.needs_ability) or any(map(wish.fits, plan.variants.values())):
        return None
    if wish.edits and not any(variant.edits for variant in plan.variants.values()):
        return "image", f"no variant of {plan.ref.name} edits images; leave it out, or use a cascade with one that does"
    if wish.edits and any(map(replace(wish, edits=False).fits, plan.variants.values())):
        return "image", "the variant with these settings or this adapter does not edit images; leave those out"
    adapted = [variant for variant in plan.variants.values() if wish.has_adapter(variant)]
    if not adapted:
        known = sorted({name for variant in plan.variants.values() for name in variant.adapters})
        offer = f"use {', '.join(known)}" if known else "leave it out"
        return "lora", f"{wish.lora[:40]!r} is not an adapter of any variant; {offer}"
    if wish.lora and any(map(replace(wish, lora="").fits, plan.variants.values())):
        return "lora", f"{wish.lora[:40]!r} is not an adapter of the variant with these settings; leave one of both out"
    steps = sorted({variant.settings.steps for variant in plan.variants.values()})
    if wish.steps is not None and wish.steps not in steps:
        return "steps", f"{wish.steps} is not what any variant takes; they take {', '.join(map(str, steps))}"
    fitting = [v.settings for v in plan.variants.values() if wish.steps in (None, v.settings.steps)]
    scales = sorted({each.guidance for each in fitting if each.guidance is not None}, key=float)
    with_steps = "" if wish.steps is None else f" with {wish.steps} steps"
    return "guidance", (
        f"{wish.guidance:g} is not what any variant{with_steps} has; "
        + (f"leave it out or use {', '.join(scales)}" if scales else "leave it out")
    )


def _of_tier(plan: Plan, wish: Wish) -> PlanRow | None:
    """The row of the client's tier; None if the plan decides, or has no worker for that row."""
    row = plan.tiers.get(wish.tier) if wish.tier != "auto" else None
    return row if row is not None and plan.expects_worker(row.first) else None


def _all_meet(plan: Plan, row: PlanRow, wish: Wish) -> bool:
    """Whether all variants of a row have the abilities that a wish needs."""
    needed = row.chain if wish.needs_ability else ()
    return all(name in plan.variants and wish.is_met_by(plan.variants[name]) for name in needed)


def _alone(plan: Plan, drawn: PlanRow, wish: Wish) -> PlanRow:
    """A row of the one variant that makes the image of a wish for settings or an ability: of the drawn row or of
    another if possible, then one that has a worker. If the plan has none that fits any more, it has no name and no
    replica.
    """
    of_rows = [name for row in (drawn, *plan.rows) for name in reversed(row.chain)]
    others = sorted(plan.variants, key=lambda name: not plan.expects_worker(name))
    fitting = (name for name in (*of_rows, *others) if name in plan.variants and wish.fits(plan.variants[name]))
    return PlanRow(share=1, chain=(next(fitting, ""),), direct=1, escalation=0)

"""Searches the settings that are worth serving, in rounds: draw images, and drop what is not worth more of them.

What draws the images and what is left of the budget are arguments, so that the search itself is the same with a real
server, and with images that a benchmark has drawn before. If the budget is one of images, the answer depends only on
the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import rounds as planning
from .choosing import Dropped, Scale, gains, narrow, settle
from .rounds import Round
from .rows import Evidence

Draw = Callable[[Sequence[str], Sequence[Round]], Evidence]
"""Draws images of some settings, by name, for the prompts of the first one of the rounds that are to come.

Images that were drawn before are not drawn again. The other rounds only help to tell how long it will all take.
"""


@dataclass(frozen=True)
class Budget:
    """What a search may spend, in images or in seconds: the price of an image by setting, and what is left.

    ``left`` is called with the number of images that were drawn, or were on record.
    """

    prices: Mapping[str, float]
    left: Callable[[int], float]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        kept: the settings that are worth serving, the cheapest first, with what the frontier would lose without each.
        dropped: the other settings, in the order in which they were dropped.
        evidence: what is known of the kept settings.
        scale: that of the objective metric.
        images: how many images were drawn, or were on record.
    """

    kept: Mapping[str, float]
    dropped: tuple[Dropped, ...]
    evidence: Evidence
    scale: Scale
    images: int


def search(names: Sequence[str], draw: Draw, budget: Budget, *, prompts: int, most: int) -> Found:
    """Search among settings with at most ``prompts`` prompts, and keep at most ``most``; raises BudgetTooSmall."""
    rounds = planning.within(budget.left(0), [budget.prices[name] for name in names], prompts, most=most)
    left, drawn, images, scale = list(names), 0, 0, Scale(0.0, 0.0)
    dropped: tuple[Dropped, ...] = ()
    while rounds:
        this, *further = rounds
        evidence = draw(left, rounds)
        if not drawn:
            scale = Scale.of(evidence)
        images += len(left) * (this.prompts - drawn)
        drawn = this.prompts
        prices = [budget.prices[name] for name in left]
        rounds = planning.shortened(further, budget.left(images), prices, most=most, drawn=drawn) if further else []
        choice = narrow(evidence, scale, most=rounds[0].settings) if rounds else settle(evidence, scale, most=most)
        dropped += choice.dropped
        left = list(choice.kept)
    kept = evidence.of(sorted(left, key=lambda name: (evidence.seconds[evidence.names.index(name)], name)))
    return Found(gains(kept, scale), dropped, kept, scale, images)

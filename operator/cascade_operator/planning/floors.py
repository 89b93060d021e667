"""Corrects a quality floor by the quality of the images that were made, since that is not quite what was planned.

Routers count, for each planned row, how many images were made and how many of them the heavy variant made. Once a row
has `BLOCK_IMAGES` more, the planner reads their quality q off the profile's grid, at the shares r̂ and d̂ that were
realised (degraded images count as accepted ones), and notes in an account what they lack:

    owed = owed + images·(floor - q)

What is owed is asked for on top of the floor, so that it is made up for within about `HORIZON_OBJECTIVES`:

    asked = floor + owed / (rate · horizon),    at most `MOST_RAISED` above or below the floor

For example, a peak of a minute leaves no room for the floor. Afterwards the images are a little better than the floor
until the mean is what was wanted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_api.chains import Variants
from cascade_api.report import MadeByRow, RouterReport

from .allocation import QualityGrid

BLOCK_IMAGES: Final = 100
"""Images of a row that are judged together: the shares of fewer are too uncertain, and the grid is not linear."""
HORIZON_OBJECTIVES: Final = 5.0
"""Objectives within which what is owed is made up for; several times what a plan takes to have an effect."""
LEAST_HORIZON_BLOCKS: Final = 4
"""The same in blocks where few images are made: what is asked for shows in the next block only."""
MOST_RAISED: Final = 0.1
"""Normalised quality by which the floor that is asked for differs from the wanted one at most."""
MOST_JUDGED: Final = 256
"""Counts that are remembered, those that were judged last; also of routers whose reports are missing now."""
STEP: Final = 0.002
"""Smallest change of the floor that is asked for."""

_Key = tuple[str, Variants, float, float]


@dataclass(frozen=True)
class Judged:
    """What a router had counted of a planned row when its images were judged last."""

    router: str
    made: MadeByRow

    @property
    def key(self) -> _Key:
        return (self.router, *self.made.row)


@dataclass(frozen=True)
class FloorAccount:
    """How the images that were made compare with the floor, all as normalised quality.

    ``owed`` is what they lack, times images (negative: they were better). ``raised`` is what is asked for on top of the
    floor. ``realised`` is the mean quality of the latest images, None as long as none were judged.
    """

    owed: float = 0.0
    raised: float = 0.0
    realised: float | None = None
    judged: tuple[Judged, ...] = ()


def settled(
    account: FloorAccount,
    reports: Sequence[RouterReport],
    grids: Mapping[Variants, QualityGrid],
    *,
    floor: float,
    rate: float,
    objective_s: float,
) -> FloorAccount:
    """The account after these reports; ``rate`` is the requests per second that are expected.

    Rows of chains without a ``grid`` are not judged. A router that counts less than before has started anew.
    """
    judged = {each.key: each for each in account.judged}
    rows: defaultdict[tuple[Variants, float, float], list[Judged]] = defaultdict(list)
    for report in reports:
        for made in report.made:
            rows[made.row].append(Judged(report.router, made))
    owed, realised = account.owed, account.realised
    horizon = max(rate * HORIZON_OBJECTIVES * objective_s, LEAST_HORIZON_BLOCKS * BLOCK_IMAGES)
    for (chain, _, _), told in rows.items():
        before = [judged.get(each.key) for each in told]
        new = [each.made.since(last.made if last else None) for each, last in zip(told, before, strict=True)]
        images = sum(made.images for made in new)
        if chain not in grids or images < BLOCK_IMAGES:
            continue
        direct, escalated = sum(made.direct_images for made in new), sum(made.escalated_images for made in new)
        rest = images - direct
        value = grids[chain].value(direct / images, escalated / rest if rest else 0.0)
        owed += images * (floor - value)
        realised = value if realised is None else realised + min(1.0, images / horizon) * (value - realised)
        for each in told:
            judged.pop(each.key, None)
            judged[each.key] = each
    most = max(abs(account.owed), MOST_RAISED * horizon)
    owed = min(max(owed, -most), most)
    raised = min(max(owed / horizon, -MOST_RAISED), MOST_RAISED)
    kept = tuple(judged.values())[-MOST_JUDGED:]
    return FloorAccount(owed, round(raised / STEP) * STEP, realised, kept)

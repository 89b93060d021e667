"""Quality of a chain over shares of direct and escalated prompts, from one image per variant and prompt (pure).

Every cell is the mean over all prompts of what would serve them. Where a cut falls among equal scores, or inside one
prompt, the prompts there count in part to each side: that is the expectation over a router's fair draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_api.profile import QualityRow

Floats = npt.NDArray[np.float64]

PERCENTS: Final = range(0, 101, 10)
QUANTILE_LEVELS: Final = np.linspace(0.0, 1.0, 21)


def top_share(scores: Floats, weights: Floats, share: float) -> Floats:
    """By how much each prompt belongs to the top ``share`` of the weight: its weight above the cut, 0 below.

    Prompts with equal scores share alike.
    """
    wanted = share * weights.sum()
    values, group = np.unique(-scores, return_inverse=True)
    group_weights = np.bincount(group, weights=weights, minlength=len(values))
    before = np.concatenate(([0.0], np.cumsum(group_weights)[:-1]))
    taken = np.clip(wanted - before, 0.0, group_weights)
    part = np.divide(taken, group_weights, out=np.zeros_like(taken), where=group_weights > 0)
    belonging: Floats = weights * part[group]
    return belonging


def served_by_heavy(hardness: Floats, confidence: Floats, *, direct: float, escalation: float) -> Floats:
    """Probability by prompt that the heavy variant's image is the answer."""
    straight = top_share(hardness, np.ones_like(hardness), direct)
    return straight + top_share(-confidence, 1.0 - straight, escalation)


def quality_rows(
    light: str,
    heavy: str,
    *,
    hardness: Floats,
    confidence: Floats,
    light_values: Mapping[str, Floats],
    heavy_values: Mapping[str, Floats],
) -> list[QualityRow]:
    """The 11 x 11 rows of a chain; values by metric are those of one image each."""
    rows = []
    for direct in PERCENTS:
        for escalation in PERCENTS:
            share = served_by_heavy(hardness, confidence, direct=direct / 100, escalation=escalation / 100)
            values = {
                metric: round(1000 * float(np.mean(share * heavy_values[metric] + (1 - share) * light_values[metric])))
                for metric in light_values
            }
            rows.append(
                QualityRow(
                    light=light,
                    heavy=heavy,
                    direct_percent=direct,
                    escalation_percent=escalation,
                    values_milli=values,
                )
            )
    return rows


def quantiles_milli(scores: Floats) -> list[int]:
    """0 %, 5 %, …, 100 % quantiles, in thousandths."""
    return [round(1000 * float(value)) for value in np.quantile(scores, QUANTILE_LEVELS)]

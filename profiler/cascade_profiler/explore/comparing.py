"""Compares ways of routing at equal compute: chosen on some prompts, reported on others. Pure.

- ``best single``: the best setting that the price pays for makes all images.
- ``random``: a coin chooses between two settings; no image is judged.
- ``prompt rule``: hard prompts go to a heavy setting; no image is judged.
- ``cascade``: light images with little confidence are made again by a heavy setting.
- ``hybrid``: both.

Each of the latter may choose among all chains, and spread prompts over two rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..measure.grid import Floats
from .frontier import Hull, Mixture, best_single
from .rows import CASCADE, HYBRID, PROMPT_RULE, SINGLE, Evidence, Rows

BEST_SINGLE: Final = "best single"
ROUTED: Final = {"random": SINGLE, "prompt rule": PROMPT_RULE, "cascade": CASCADE, "hybrid": HYBRID}
SYSTEMS: Final = (BEST_SINGLE, *ROUTED)
BUDGETS: Final = (0.10, 0.15, 0.20, 0.30, 0.50)
"""Compute of a prompt, in images of the dearest setting."""
DRAWS: Final = 400
INTERVAL: Final = (0.025, 0.975)

CURVE: Final = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, *BUDGETS, 0.25, 0.40, 0.75, 1.0)
"""The budgets between which curves are drawn."""


@dataclass(frozen=True)
class Compared:
    """A way of routing at one budget: the rows, the mean on other prompts, and its resamples ``[draws]``.

    The resamples of all ways and budgets are of the same prompts, so that they can be compared one by one.
    """

    mixture: Mixture
    mean: float
    resampled: Floats

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, by bootstrap over prompts."""
        low, high = np.quantile(self.resampled, INTERVAL)
        return float(low), float(high)


def choose(evidence: Evidence, seconds: Sequence[float], floor: float) -> dict[tuple[str, float], Mixture]:
    """The mixture of each way of routing at each price."""
    hulls = {name: Hull(rows, np.ones(len(rows.means), dtype=bool), floor) for name, rows in _rows(evidence).items()}
    found = {(BEST_SINGLE, price): best_single(evidence, price, floor) for price in seconds}
    return found | {(name, price): hull.mixture(price) for name, hull in hulls.items() for price in seconds}


def report(
    chosen: Mapping[tuple[str, float], Mixture], evidence: Evidence, floor: float, *, draws: int = DRAWS, seed: int = 0
) -> dict[tuple[str, float], Compared]:
    """What chosen mixtures are worth on the prompts of ``evidence``; thresholds are set anew for each resample."""
    rng = np.random.default_rng(seed)
    count = evidence.prompts
    weights = [np.ones(count)]
    weights += [np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64) for _ in range(draws)]
    # The same row is part of many mixtures.
    rows = {row for mixture in chosen.values() for _, row in mixture.portions}
    means = {row: np.array([row.outcome(evidence, w).sum() / count for w in weights]) for row in rows}
    found = {}
    for key, mixture in chosen.items():
        refused = 1.0 - sum(share for share, _ in mixture.portions)
        series = refused * floor + sum((share * means[row] for share, row in mixture.portions), np.zeros(draws + 1))
        found[key] = Compared(mixture, float(series[0]), series[1:])
    return found


def _rows(evidence: Evidence) -> dict[str, Rows]:
    return {name: Rows(evidence, family) for name, family in ROUTED.items()}

"""The scorers that can be fitted to labelled prompts: weights for counted phrases, for all features, or for words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cascade_router.prompts.features import COUNTED, extract, read_tables
from cascade_router.prompts.scorers import FEATURES, LinearScorer
from cascade_router.prompts.words import words_of

from ..measure.grid import QUANTILE_LEVELS
from .words import fit_words

Floats = npt.NDArray[np.float64]
ScorerKind = Literal["counts", "features", "words"]

KINDS: Final[dict[ScorerKind, str]] = {
    "counts": "phrases counted by rule",
    "features": "all features",
    "words": "a weight per word",
}
RIDGE_WORDS: Final = 10.0
"""Ridge penalty on the weights of words, if targets have a standard deviation of 1."""
RIDGE_FEATURES: Final = 10.0
"""Ridge penalty on the weights of standardised features."""


class Table:
    """The words and the features of prompts, computed once."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.words = [words_of(prompt) for prompt in prompts]
        found = [extract(prompt) for prompt in prompts]
        self.features = np.asarray([[float(getattr(f, name)) for name in FEATURES] for f in found])


def fit(
    kind: ScorerKind, table: Table, gain: Floats, rows: npt.NDArray[np.intp], *, scale: float = 1.0
) -> dict[str, Any]:
    """A weight file (without quantiles) that is fitted to some rows of a table; ``scale`` multiplies its scores."""
    target = scale * (gain[rows] - gain[rows].mean()) / (gain[rows].std() or 1.0)
    if kind == "words":
        return {
            "weights": {},
            "words": fit_words([table.words[row] for row in rows], {"hardness": target}, ridge=RIDGE_WORDS),
        }
    names = COUNTED if kind == "counts" else FEATURES
    columns = [FEATURES.index(name) for name in names]
    chosen = table.features[rows][:, columns]
    centred = chosen - chosen.mean(axis=0)
    spread = np.where(centred.std(axis=0) > 0, centred.std(axis=0), 1.0)
    standard = centred / spread
    weights = np.linalg.solve(standard.T @ standard + RIDGE_FEATURES * np.eye(len(columns)), standard.T @ target)
    return {"weights": {name: round(float(w), 4) for name, w in zip(names, weights / spread, strict=True)}}


def with_quantiles(content: dict[str, Any], scores: Floats) -> dict[str, Any]:
    """The weight file with the quantiles of the expected scores."""
    return {
        "weights": content["weights"],
        "quantiles": [round(float(value), 4) for value in np.quantile(scores, QUANTILE_LEVELS)],
        **{key: value for key, value in content.items() if key not in ("weights", "quantiles")},
    }


def scorer_from(content: dict[str, Any]) -> LinearScorer:
    """The router's scorer with the weights of a weight file."""
    tables = read_tables(content["words"]) if "words" in content else {}
    return LinearScorer(
        name="learned",
        weights=content["weights"],
        quantiles=content.get("quantiles", (0.0, 1.0)),
        words=next(iter(tables.values()), None),
    )

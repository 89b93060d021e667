"""The hardness and confidence of a trace's prompts, as percentiles: from the reference data, or random from a seed.

Percentiles lose no information that matters, since routers compare scores with quantiles of what they see. They are
computed once for each prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_router.prompts.scorers import CoinFlipScorer, Scorer, make_scorer

from ..frontier.inputs import BadInput, lines_of, records
from ..frontier.reference import HADIS_MODELS, reference_folder

Floats = npt.NDArray[np.float64]

IMAGES_PER_PROMPT: Final = 4
"""Images per prompt and model for which the reference data has confidences."""
EVEN: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
PUBLISHED_WEIGHTS: Final = {
    "prompt_length": 0.85,
    "token_rarity": 0.32,
    "num_objects": 0.72,
    "abstractness": 0.99,
    "attribute_density": 0.76,
    "spatial_relations": 0.07,
    "action_verbs": 0.78,
    "named_entities": 0.01,
}
"""The weights of the published prompt router, for standardised features."""


@dataclass(frozen=True)
class Scores:
    """Scores by prompt number (modulo their count).

    The published systems use ``published_hardness`` and ``mean_confidence``: the score of their own prompt router, and
    the mean over several images of a prompt, which a real server does not have.
    """

    hardness: Sequence[float]
    published_hardness: Sequence[float]
    confidence: Mapping[str, Sequence[Sequence[float]]]
    """By variant and prompt, the confidence of each of its images."""
    mean_confidence: Mapping[str, Sequence[float]]

    @property
    def prompts(self) -> int:
        return len(self.hardness)


class RememberedScorer:
    """One of the product's scorers, which scores each prompt only once; prompts are given by their numbers."""

    quantiles = EVEN

    def __init__(self, name: str, hardness: Sequence[float]) -> None:
        self.name = name
        self._hardness = hardness

    def score(self, prompt: str, *, draw: float) -> float:
        return self._hardness[int(prompt)]


def scorer_of(name: str, scores: Scores) -> Scorer:
    """The scorer that a manifest names, on these prompts."""
    return CoinFlipScorer() if name == "coin-flip" else RememberedScorer(name, scores.hardness)


def drawn_scores(variants: Sequence[str], *, prompts: int, seed: int) -> Scores:
    """Independent, uniformly distributed scores."""
    rng = np.random.default_rng([seed, 2])
    images = {v: rng.uniform(size=(prompts, IMAGES_PER_PROMPT)) for v in variants}
    hardness = rng.uniform(size=prompts).tolist()
    return Scores(
        hardness=hardness,
        published_hardness=hardness,
        confidence={v: _rows(drawn) for v, drawn in images.items()},
        mean_confidence={v: percentiles(drawn.mean(axis=1)).tolist() for v, drawn in images.items()},
    )


def reference_scores() -> Scores:
    """Scores of the reference prompts: the product's rules on their text, confidences as measured."""
    folder = reference_folder()
    texts = lines_of(folder / "prompts_imagenet1k_hr_5k.txt")
    rules = make_scorer("rules")
    images = {name: confidences(folder / f"disc_scores_model_{i}.txt") for i, name in enumerate(HADIS_MODELS)}
    for name, drawn in images.items():
        if len(drawn) != len(texts):
            raise BadInput(str(folder), f"has {len(texts)} prompts but confidences of {len(drawn)} for {name}")
    return Scores(
        hardness=percentiles(np.asarray([rules.score(text, draw=0.0) for text in texts])).tolist(),
        published_hardness=percentiles(_published_hardness(folder)).tolist(),
        confidence={v: _rows(percentiles(drawn.ravel()).reshape(drawn.shape)) for v, drawn in images.items()},
        mean_confidence={v: percentiles(drawn.mean(axis=1)).tolist() for v, drawn in images.items()},
    )


def percentiles(values: Floats) -> Floats:
    """The share of all values that lies below each."""
    below = np.searchsorted(np.sort(values), values, side="left") / len(values)
    return np.asarray(below, dtype=np.float64)


def _rows(table: Floats) -> list[list[float]]:
    return [[float(value) for value in row] for row in table]


def confidences(path: Path) -> Floats:
    """P(real) by prompt and image, from lines of P(fake) and P(real)."""
    lines = lines_of(path)
    try:
        real = np.asarray([float(line.split()[1]) for line in lines])
    except (ValueError, IndexError):
        row = next(i for i, line in enumerate(lines, 1) if len(line.split()) != 2)
        raise BadInput(str(path), "two numbers are wanted: P(fake) and P(real)", row=row) from None
    if len(real) % IMAGES_PER_PROMPT:
        raise BadInput(str(path), f"has {len(real)} lines, which is not {IMAGES_PER_PROMPT} for each prompt")
    return real.reshape(-1, IMAGES_PER_PROMPT)


def _published_hardness(folder: Path) -> Floats:
    names = list(PUBLISHED_WEIGHTS)
    table = np.asarray(
        [
            [record.number(name, low=0) for name in names]
            for record in records(folder / "router_prompt_features_imagenet5k.csv", columns=names)
        ]
    )
    spread = table.std(axis=0)
    standard = (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(standard @ np.asarray(list(PUBLISHED_WEIGHTS.values())), dtype=np.float64)

"""Hardness of a prompt from its text: a linear rule with fixed weights, the same with fitted ones, or a coin.

Hardness has no unit and no zero: only the order of scores matters, since routers cut at quantiles of the live
distribution. The coin is the baseline that any other scorer has to beat.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from .features import Features, extract

FEATURES: Final = tuple(field.name for field in dataclasses.fields(Features))
_RULES: Final = Path(__file__).with_name("rules.json")


class ScorerError(Exception):
    """A scorer cannot be had; the message names what is missing and what to do."""


class Scorer(Protocol):
    """Gives every prompt a hardness."""

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        ...

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Evenly spaced quantiles of the hardness expected before any prompt was seen."""
        ...

    def score(self, prompt: str, *, draw: float) -> float:
        """Hardness of a prompt; ``draw`` in [0, 1) is the randomness that a scorer may use."""
        ...


class LinearScorer:
    """Weighted sum of the features, plus an intercept."""

    def __init__(
        self, *, name: str, weights: Mapping[str, float], intercept: float, quantiles: tuple[float, ...]
    ) -> None:
        self.name = name
        self.quantiles = quantiles
        self._intercept = intercept
        self._weights = tuple((feature, weight) for feature, weight in weights.items() if weight != 0)

    def score(self, prompt: str, *, draw: float) -> float:
        features = extract(prompt)
        return self._intercept + math.fsum(weight * getattr(features, name) for name, weight in self._weights)


class CoinFlipScorer:
    """A hardness that knows nothing of the prompt: the draw itself."""

    name = "coin-flip"
    quantiles = (0.0, 0.25, 0.5, 0.75, 1.0)

    def score(self, prompt: str, *, draw: float) -> float:
        return draw


def make_scorer(name: str, source: str | None = None) -> Scorer:
    """The scorer of a plan.

    Args:
        name: ``rules``, ``learned`` or ``coin-flip``.
        source: the weight file of ``learned``, as a path or a ``file://`` address.

    Raises:
        ScorerError: unknown name, or weights that are missing or malformed.
    """
    if name == "rules":
        return _rules()
    if name == "coin-flip":
        return CoinFlipScorer()
    if name == "learned":
        if source is None:
            raise ScorerError("hardness.source: the learned scorer needs a weight file; give its path")
        return _load("learned", Path(source.removeprefix("file://")))
    raise ScorerError(f"hardness.scorer: {name!r} is none of rules, learned, coin-flip")


@functools.cache
def _rules() -> Scorer:
    return _load("rules", _RULES)


def _load(name: str, path: Path) -> Scorer:
    """A linear scorer from JSON: ``weights`` by feature, ``intercept``, ``quantiles`` (evenly spaced, rising)."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScorerError(
            f"hardness.source: cannot read {path}: {error.strerror}; give the path of a weight file"
        ) from None
    except ValueError as error:
        raise ScorerError(f"hardness.source: {path} is not JSON: {error}") from None
    try:
        weights = {str(key): float(value) for key, value in content["weights"].items()}
        intercept = float(content.get("intercept", 0.0))
        quantiles = tuple(float(value) for value in content["quantiles"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ScorerError(
            f"hardness.source: {path} needs `weights` (numbers by feature) and `quantiles` (numbers): {error!r}"
        ) from None
    unknown = sorted(set(weights) - set(FEATURES))
    if unknown:
        raise ScorerError(f"hardness.source: {path}: unknown feature {unknown[0]!r}; known: {', '.join(FEATURES)}")
    if len(quantiles) < 2 or list(quantiles) != sorted(quantiles):
        raise ScorerError(f"hardness.source: {path}: `quantiles` must be two or more rising numbers")
    return LinearScorer(name=name, weights=weights, intercept=intercept, quantiles=quantiles)

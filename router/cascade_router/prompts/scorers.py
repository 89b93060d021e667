"""The hardness of a prompt, from its text: by the built-in weights, by weights that the user fitted, or by a coin flip.

Hardness has no unit and no zero. Only the order of scores matters, since routers compare them with quantiles of the
live distribution. The coin flip is the baseline that any other scorer must beat.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from .features import COUNTED, PUBLISHED, count, lexicon, read_tables
from .words import WordWeights, combined, words_of

FEATURES: Final = (*COUNTED, *PUBLISHED)
_RULES: Final = Path(__file__).with_name("rules.json")


class ScorerError(Exception):
    """A scorer cannot be made; the message names what is missing and what to do."""


class Scorer(Protocol):
    """Gives every prompt a hardness."""

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        ...

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Evenly spaced quantiles of the expected hardness, for use before any prompt was seen."""
        ...

    def score(self, prompt: str, *, draw: float) -> float:
        """Hardness of a prompt; ``draw`` in [0, 1) is the randomness that a scorer may use."""
        ...


class LinearScorer:
    """A weighted sum of features, plus a weight for every word if there are ``words``."""

    def __init__(
        self,
        *,
        name: str,
        weights: Mapping[str, float],
        quantiles: Sequence[float],
        words: WordWeights | None = None,
    ) -> None:
        self.name = name
        self.quantiles = tuple(quantiles)
        self._counted = tuple((feature, weights[feature]) for feature in COUNTED if weights.get(feature))
        estimated = [(weights[feature], lexicon()[feature]) for feature in PUBLISHED if weights.get(feature)]
        self._tables = ([combined(estimated)] if estimated else []) + ([words] if words else [])

    def score(self, prompt: str, *, draw: float) -> float:
        words = words_of(prompt)
        total = math.fsum(table.total(words) for table in self._tables)
        if self._counted:
            counts = count(words)
            total += math.fsum(weight * getattr(counts, feature) for feature, weight in self._counted)
        return total


class CoinFlipScorer:
    """A hardness that does not depend on the prompt: it is the draw itself."""

    name = "coin-flip"
    quantiles = (0.0, 0.25, 0.5, 0.75, 1.0)

    def score(self, prompt: str, *, draw: float) -> float:
        return draw


def make_scorer(name: str, source: str | None = None) -> Scorer:
    """The scorer of a plan.

    Args:
        name: ``rules``, ``learned`` or ``coin-flip``.
        source: the weight file of ``learned`` (`cascade fit-hardness` writes one), as a path or a ``file://`` address.

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
    """A scorer from JSON: ``weights`` by feature, ``quantiles`` (evenly spaced, rising), and optional ``words``."""
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
        quantiles = [float(value) for value in content["quantiles"]]
        tables = read_tables(content["words"]) if "words" in content else {}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ScorerError(
            f"hardness.source: {path} needs `weights` (numbers by feature) and `quantiles` (numbers), and `words` must "
            f"be as `cascade fit-hardness` writes them: {error!r}"
        ) from None
    unknown = sorted(set(weights) - set(FEATURES))
    if unknown:
        raise ScorerError(f"hardness.source: {path}: unknown feature {unknown[0]!r}; known: {', '.join(FEATURES)}")
    if len(quantiles) < 2 or quantiles != sorted(quantiles):
        raise ScorerError(f"hardness.source: {path}: `quantiles` must be two or more rising numbers")
    if not all(math.isfinite(value) for value in (*weights.values(), *quantiles)):
        raise ScorerError(f"hardness.source: {path}: every number must be finite")
    return LinearScorer(name=name, weights=weights, quantiles=quantiles, words=next(iter(tables.values()), None))

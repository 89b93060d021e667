"""Evaluates fitted scorers on held-out prompts over several splits, and compares them with a coin flip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cascade_router.prompts.features import PUBLISHED, read_tables
from cascade_router.prompts.scorers import CoinFlipScorer, Scorer, make_scorer

from ..simulate.scores import PUBLISHED_WEIGHTS
from .candidates import KINDS, Table, fit, scorer_from
from .labels import LabelledPrompts
from .measures import area_under_curve, captured, rank_correlation
from .splits import by_prompt, by_subject, held_out
from .words import fit_words

Floats = npt.NDArray[np.float64]

DIRECT_SHARE: Final = 0.3
"""Share of direct prompts at which the captured gain is reported."""
COMPOSITE: Final = "composite"
"""Name of the published router's score among the rows of `evaluate_features`."""
RIDGE_LEXICON: Final = 1.0
"""Ridge penalty of the word tables for the published features."""

Split = Literal["prompt", "class"]


@dataclass(frozen=True)
class Figure:
    """The mean and the standard deviation of a measure over seeds."""

    mean: float
    sd: float


@dataclass(frozen=True)
class EvaluationRow:
    """The figures of one scorer, or one feature, on the held-out prompts of one kind of split."""

    name: str
    split: Split
    figures: Mapping[str, Figure]


def evaluate_labels(labelled: LabelledPrompts, *, seeds: int) -> list[EvaluationRow]:
    """The figures of the coin flip, the shipped rules and each kind of fitted scorer, on held-out prompts."""
    prompts, gain = labelled.prompts, labelled.gain
    table = Table(prompts)
    rows: dict[tuple[str, Split], list[dict[str, float]]] = {}
    hard = gain > np.median(gain) if np.median(gain) > 0 else gain > 0
    for split, seed, test in _splits(prompts, labelled.classes, seeds):
        train = np.flatnonzero(~test)
        scorers: dict[str, Scorer] = {"coin-flip": CoinFlipScorer(), "rules": make_scorer("rules")}
        scorers |= {f"fitted: {KINDS[kind]}": scorer_from(fit(kind, table, gain, train)) for kind in KINDS}
        draws = np.random.default_rng([seed, 12]).random(len(prompts))
        for name, scorer in scorers.items():
            at = np.flatnonzero(test)
            scores = np.asarray([scorer.score(prompts[i], draw=float(draws[i])) for i in at])
            rows.setdefault((name, split), []).append(
                {
                    "rank correlation": rank_correlation(scores, gain[at]),
                    "AUC": area_under_curve(scores, hard[at]),
                    f"gain at {DIRECT_SHARE:.0%}": captured(scores, gain[at], share=DIRECT_SHARE),
                }
            )
    return _summed(rows)


def evaluate_features(prompts: Sequence[str], counts: Mapping[str, Floats], *, seeds: int) -> list[EvaluationRow]:
    """The rank correlation between each published feature and its estimate from words, on held-out prompts.

    The same is computed for the score of the published router, which is a weighted sum of the features.
    """
    table = Table(prompts)
    rows: dict[tuple[str, Split], list[dict[str, float]]] = {}
    reference = composite(counts, counts)
    for split, seed, test in _splits(prompts, None, seeds):
        train, at = np.flatnonzero(~test), np.flatnonzero(test)
        content = fit_words(
            [table.words[i] for i in train], {n: v[train] for n, v in counts.items()}, ridge=RIDGE_LEXICON
        )
        tables = read_tables(content)
        estimates = {n: np.asarray([tables[n].total(table.words[i]) for i in at]) for n in PUBLISHED}
        for name in PUBLISHED:
            rows.setdefault((name, split), []).append(
                {"rank correlation": rank_correlation(estimates[name], counts[name][at])}
            )
        ours = composite(estimates, {n: v[train] for n, v in counts.items()})
        coin = np.random.default_rng([seed, 12]).random(len(at))
        for name, scores in ((COMPOSITE, ours), ("coin-flip", coin)):
            rows.setdefault((name, split), []).append({"rank correlation": rank_correlation(scores, reference[at])})
    return _summed(rows)


def composite(values: Mapping[str, Floats], like: Mapping[str, Floats]) -> Floats:
    """The score of the published router; each feature is scaled by its standard deviation in ``like``."""
    total = np.zeros(len(values[PUBLISHED[0]]))
    for name in PUBLISHED:
        total += PUBLISHED_WEIGHTS[name] / (like[name].std() or 1.0) * values[name]
    return total


def _splits(
    prompts: Sequence[str], classes: Sequence[str] | None, seeds: int
) -> Iterator[tuple[Split, int, npt.NDArray[np.bool_]]]:
    ways: dict[Split, Callable[[Sequence[str]], Sequence[str]]] = {
        "prompt": by_prompt,
        "class": (lambda _: classes) if classes is not None else by_subject,
    }
    for split, way in ways.items():
        groups = way(prompts)
        if len(set(groups)) < 2:
            continue
        for seed in range(seeds):
            yield split, seed, held_out(groups, seed=seed)


def _summed(rows: Mapping[tuple[str, Split], Sequence[Mapping[str, float]]]) -> list[EvaluationRow]:
    return [
        EvaluationRow(name, split, {m: _figure([run[m] for run in runs]) for m in runs[0]})
        for (name, split), runs in rows.items()
    ]


def _figure(values: Sequence[float]) -> Figure:
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def as_text(rows: Sequence[EvaluationRow]) -> str:
    """The rows as a text table; figures have their standard deviation."""
    measures = list(rows[0].figures)
    lines = [f"{'held out by':<12}{'':<32}" + "".join(f"{m:>20}" for m in measures)]
    lines += [
        f"{row.split:<12}{row.name:<32}"
        + "".join(f"{row.figures[m].mean:>12.3f} ±{row.figures[m].sd:>5.3f} " for m in measures)
        for row in rows
    ]
    return "\n".join(lines)


def as_data(rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """The rows as data for JSON; each figure has its standard deviation in ``…_sd``."""
    return [
        {"name": row.name, "held_out_by": row.split}
        | {m.replace(" ", "_"): round(f.mean, 5) for m, f in row.figures.items()}
        | {m.replace(" ", "_") + "_sd": round(f.sd, 5) for m, f in row.figures.items()}
        for row in rows
    ]

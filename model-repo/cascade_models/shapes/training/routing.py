"""Compares routing policies offline: their mean q2 at a given share of the compute of the heavy model for all prompts.

Costs are in heavy images. The policies are:

- ``random``: a random choice of prompts goes to the heavy model.
- ``prompt``: the prompts with the greatest expected gain go there, by a ridge regression on the prompt's contents.
- ``cascade``: every prompt gets a light image first, and those of the lowest confidence escalate.
- ``hybrid``: the prompt rule sends some prompts straight to the heavy model, and the rest cascade; the split is chosen
  on the fitting set.

Rules are fitted on training prompts and evaluated on others. Shares are set on the score distributions of the evaluated
prompts, as a live router sets them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from cascade_models.shapes import grammar
from cascade_models.shapes.training import evaluate

POLICIES = ("random", "prompt", "cascade", "hybrid")
BUDGETS = (0.3, 0.5, 0.7)
_RIDGE = 3.0
_DIRECT_SHARES = np.linspace(0, 0.7, 36)

Doubles = evaluate.Doubles


@dataclasses.dataclass(frozen=True)
class Costs:
    """Cost of a light image and of a judgement, in heavy images."""

    light: float
    judge: float


@dataclasses.dataclass(frozen=True)
class BudgetRow:
    """Mean q2 by policy at a budget, 95 % intervals, and the share of the gap from random to all-heavy closed."""

    budget: float
    quality: dict[str, float]
    interval: dict[str, tuple[float, float]]
    closed: dict[str, float]
    closed_interval: dict[str, tuple[float, float]]
    direct: float


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What routing needs of N prompts: q2 of both variants, confidence, and the rule's expected gain."""

    light: Doubles
    heavy: Doubles
    confidence: Doubles
    gain: Doubles

    def take(self, chosen: npt.NDArray[np.int64]) -> Prompts:
        """The chosen rows."""
        return Prompts(self.light[chosen], self.heavy[chosen], self.confidence[chosen], self.gain[chosen])


def compare(
    fitted: evaluate.Evaluation, judged: evaluate.Evaluation, costs: Costs, resamples: int = 500
) -> list[BudgetRow]:
    """All policies at all budgets on ``judged``, with rules fitted on ``fitted`` and bootstrap intervals."""
    weights = _fit(_features(fitted.scenes), fitted.heavy.q2 - fitted.light.q2)
    training, prompts = (
        Prompts(part.light.q2, part.heavy.q2, part.confidence, _features(part.scenes) @ weights)
        for part in (fitted, judged)
    )
    rng = np.random.default_rng(0)
    draws = [prompts.take(rng.integers(0, len(prompts.light), len(prompts.light))) for _ in range(resamples)]
    rows = []
    for budget in BUDGETS:
        direct = max(_DIRECT_SHARES, key=lambda share: _hybrid(training, costs, budget, float(share)))
        quality, closed = _evaluate(prompts, costs, budget, float(direct))
        resampled = [_evaluate(draw, costs, budget, float(direct)) for draw in draws]
        rows.append(
            BudgetRow(
                budget,
                quality,
                {name: _interval([one[name] for one, _ in resampled]) for name in POLICIES},
                closed,
                {name: _interval([two[name] for _, two in resampled]) for name in POLICIES},
                float(direct),
            )
        )
    return rows


def _evaluate(
    prompts: Prompts, costs: Costs, budget: float, direct: float
) -> tuple[dict[str, float], dict[str, float]]:
    share = min(1.0, (budget - costs.light) / (1 - costs.light))
    random = float((1 - share) * prompts.light.mean() + share * prompts.heavy.mean())
    quality = {
        "random": random,
        "prompt": _mixed(prompts, _top(prompts.gain, share)),
        "cascade": _hybrid(prompts, costs, budget, 0.0),
        "hybrid": _hybrid(prompts, costs, budget, direct),
    }
    gap = float(prompts.heavy.mean()) - random
    return quality, {name: (value - random) / gap if gap > 0 else float("nan") for name, value in quality.items()}


def _hybrid(prompts: Prompts, costs: Costs, budget: float, direct: float) -> float:
    """Mean q2 when ``direct`` of the prompts skip the light model and what the budget leaves escalates."""
    heavy = _top(prompts.gain, direct)
    rest = np.flatnonzero(~heavy)
    left = budget - direct - (1 - direct) * (costs.light + costs.judge)
    if left < 0:
        return -1.0
    escalated = _top(-prompts.confidence[rest], min(1.0, left / max(1e-9, 1 - direct)))
    heavy[rest[escalated]] = True
    return _mixed(prompts, heavy)


def _mixed(prompts: Prompts, heavy: npt.NDArray[np.bool_]) -> float:
    return float(np.where(heavy, prompts.heavy, prompts.light).mean())


def _top(scores: Doubles, share: float) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[: round(share * len(scores))]] = True
    return chosen


def _features(scenes: tuple[grammar.Scene, ...]) -> Doubles:
    rows = []
    for scene in scenes:
        count, small = len(scene.objects), sum(shape.size == "small" for shape in scene.objects)
        row = [float(count == number) for number in range(1, grammar.MAX_OBJECTS + 1)]
        row += [small * value for value in row] + [float(small == count)]
        row += [float(sum((shape.size, shape.form) == pair for shape in scene.objects)) for pair in _PAIRS]
        row += [float(sum(shape.colour == colour for shape in scene.objects)) for colour in grammar.COLOURS]
        rows.append(row)
    return np.asarray(rows, dtype=np.float64)


_PAIRS = [(size, form) for size in grammar.SIZES for form in grammar.FORMS]


def _fit(features: Doubles, target: Doubles) -> Doubles:
    identity = np.eye(features.shape[1])
    solution = np.linalg.solve(features.T @ features + _RIDGE * identity, features.T @ target)
    return np.asarray(solution, dtype=np.float64)


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)

"""docs/benchmarks/science.md and its figures, from what bench_science measured."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.bench_science import (
    BUDGETS,
    CURVE,
    JUDGING,
    MIXED_BUDGET,
    POLICIES,
    Comparison,
    Images,
    Mixing,
    auc,
    targets,
)
from cascade_models import judging
from cascade_profiler.report.charts import Series, drawing

NAME = "science"


def write(
    folder: Path, judged: Images, comparisons: Sequence[Comparison], mixed: Sequence[Mixing], *, seeds: int
) -> None:
    """The page and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    first = comparisons[0]
    figures = {"quality": quality_figure(judged, first), "gap": gap_figure(comparisons), "reliability": bins(judged)}
    for name, text in figures.items():
        (folder / f"{NAME}-{name}.svg").write_text(text, encoding="utf-8")
    (folder / f"{NAME}.md").write_text(page(judged, comparisons, mixed, seeds), encoding="utf-8")


PAGE = """# What a cascade is worth on the testbed

Written by `make bench-science`; do not edit by hand. The built-in shapes are small enough to be drawn in numbers, and a
checker says what is right in an image, so that policies can be compared by truth.

{date}, {cores} cores ({machine}), no GPU. {prompts} held-out prompts (half with combinations of size, colour and form
that were never trained, half other texts that were never trained), equally many of one to four objects, {seeds} seeds
each: {images} images of each variant, the same for every policy. All light: q2 {light}; all heavy: {heavy}. Compute
is in heavy images a prompt; a judgement costs {judging}. In parentheses: 95 % bootstrap intervals over prompts, paired.
The hybrid's share of direct prompts (r) was chosen on other prompts (of the training texts); the prompt rule is the
shipped `rules`.

## Targets

{targets}
## Every policy at equal compute

*Random* sends prompts to the heavy model by a coin, without judging light images: the straight line between the two
single models. *Closed* is the share of the gap from random routing to all-heavy, at the same compute, that a policy
closes.

{tables}
![q2 by compute at 1:{ratio}](science-quality.svg)

![Share of the gap that is closed](science-gap.svg)

## Does the prompt rule beat the coin?

{rule}
## Does the discriminator?

{discriminator}
![Reliability of the confidence](science-reliability.svg)

## Where mixing both helps

{mixing}
## What this does not say

- A toy: prompts of a small grammar, images of 32 by 32 pixels, errors that a checker can name. It says how well routing
  works where the truth is known, not how good any large model is.
- The images are the same at every price; only the price of a light image differs.
- What a prompt names says much about its difficulty here (small shapes are hard), which flatters the prompt rule.
- Intervals are over prompts and seeds of one training of the models.
"""


def page(judged: Images, comparisons: Sequence[Comparison], mixed: Sequence[Mixing], seeds: int) -> str:
    """The text; every verdict follows from the figures."""
    first = comparisons[0]
    return PAGE.format(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        cores=os.cpu_count(),
        machine=platform.machine(),
        prompts=int(judged.prompt.max()) + 1,
        seeds=seeds,
        images=len(judged.light),
        light=f"{judged.light.mean():.3f}, strictly right {judged.light_strict.mean():.3f}",
        heavy=f"{judged.heavy.mean():.3f}, {judged.heavy_strict.mean():.3f}",
        judging=JUDGING,
        targets="".join(f"- {'met' if held else '**missed**'}: {line}\n" for line, held in targets(judged, first)),
        tables="\n".join(table(comparison) for comparison in comparisons),
        ratio=first.ratio,
        rule="\n".join((beats(first, "prompt rule"), skill(judged.hardness, judged, "hardness"))),
        discriminator="\n".join(
            (beats(first, "cascade"), skill(-judged.confidence, judged, "doubt"), reliability(judged))
        ),
        mixing=mixing(mixed),
    )


def table(comparison: Comparison) -> str:
    head = "| compute | random | " + " | ".join(f"{policy} | closed" for policy in POLICIES) + " | r of the hybrid |\n"
    rows = []
    for budget in BUDGETS:
        cells = [comparison.cells[policy, budget] for policy in POLICIES]
        told = " | ".join(f"{cell.q2.text()} | {cell.closed.percent()}" for cell in cells)
        rows.append(f"| {budget:.0%} | {comparison.random[budget]:.3f} | {told} | {comparison.direct[budget]:.2f} |\n")
    lines = "|---|---|" + "---|---|" * len(POLICIES) + "---|\n"
    return f"A light image costs 1:{comparison.ratio} of a heavy one:\n\n{head}{lines}{''.join(rows)}"


def beats(comparison: Comparison, policy: str) -> str:
    """By how much, and by how many standard errors, a policy alone is above random routing."""
    rows = []
    for budget in BUDGETS:
        gain = comparison.cells[policy, budget].gain
        rows.append(f"| {budget:.0%} | {gain.text()} | {gain.value / gain.error:.1f} |\n")
    head = f"| compute | q2 of the {policy} above random | standard errors |\n|---|---|---|\n"
    least = min(cell.gain.value / cell.gain.error for cell in (comparison.cells[policy, b] for b in BUDGETS))
    verdict = "Yes, at every compute that was tried" if least > 2 else "Not beyond chance at every compute"
    return f"{verdict} (1:{comparison.ratio}).\n\n{head}{''.join(rows)}"


def skill(scores: np.ndarray, judged: Images, name: str) -> str:
    """How well a score finds the light images that are not strictly right."""
    wrong = 1 - judged.light_strict
    within = judging.auc_within(scores, wrong, judged.objects)
    return (
        f"Its {name} finds light images that are not strictly right with an AUC of\n"
        f"{auc(scores, wrong, judged).text()}; {within:.3f} among prompts with the same number of objects.\n"
    )


def reliability(judged: Images) -> str:
    rows, error = judging.reliability(judged.confidence, judged.light_strict)
    lines = "".join(f"| {r.low:.1f} to {r.high:.1f} | {r.count} | {r.confidence:.2f} | {r.right:.2f} |\n" for r in rows)
    parts = [
        f"{name} {auc(judged.confidence[part], judged.light_strict[part], subset(judged, part)).text()}"
        for name, part in (("held-out combinations", judged.heldout), ("other texts", ~judged.heldout))
    ]
    return (
        f"AUC by prompts: {', '.join(parts)}.\nExpected calibration error {error:.3f} over ten bins:\n\n"
        f"| confidence | images | mean confidence | strictly right |\n|---|---|---|---|\n{lines}"
    )


def subset(judged: Images, part: np.ndarray) -> Images:
    """Some of the images, with their prompts numbered anew."""
    chosen = {name: getattr(judged, name)[part] for name in Images.__dataclass_fields__}
    return Images(**{**chosen, "prompt": np.unique(chosen["prompt"], return_inverse=True)[1]})


def mixing(mixed: Sequence[Mixing]) -> str:
    """Where prompt rule and discriminator together are better than the better of them alone."""
    rows = [
        f"| {one.auc:.2f} | 1:{one.ratio} | {one.direct:.2f} | {one.better} | {one.ahead.value:+.4f} "
        f"({one.ahead.low:+.4f} to {one.ahead.high:+.4f}) |\n"
        for one in mixed
    ]
    helps = [f"1:{one.ratio} (AUC {one.auc:.2f})" for one in mixed if one.ahead.low > 0]
    verdict = f"Beyond chance at {', '.join(helps)}." if helps else "Nowhere beyond chance."
    most = max(one.ahead.value for one in mixed)
    head = (
        "AUC of the discriminator",
        "light image",
        "r of the hybrid",
        "better part alone",
        "q2 of the hybrid above it",
    )
    return (
        f"{verdict} The most that it is ahead is {most:.4f}; of {len(mixed)} intervals one or two may exclude zero by\n"
        "chance. Sending the hardest prompts straight to the heavy model saves their light images and judgements, so\n"
        "it was tried at dearer light images than the testbed's too, and with noise on the discriminator's logits, at\n"
        f"{MIXED_BUDGET:.0%} compute. Share and better part were chosen on the other prompts.\n\n"
        f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n{''.join(rows)}"
    )


def quality_figure(judged: Images, comparison: Comparison) -> str:
    lines = [Series("random", [(100 * budget, comparison.random[budget]) for budget in CURVE])]
    lines += [
        Series(policy, [(100 * budget, comparison.cells[policy, budget].q2.value) for budget in CURVE])
        for policy in POLICIES
    ]
    lines.append(Series("all heavy", [(100 * CURVE[0], judged.heavy.mean()), (100 * CURVE[-1], judged.heavy.mean())]))
    return drawing(f"q2 at 1:{comparison.ratio}", lines, x_label="compute, % of all-heavy's", y_label="q2")


def gap_figure(comparisons: Sequence[Comparison]) -> str:
    lines = [
        Series(
            f"hybrid, 1:{comparison.ratio}",
            [(100 * budget, 100 * comparison.cells["hybrid", budget].closed.value) for budget in CURVE],
        )
        for comparison in comparisons
    ]
    first = comparisons[0]
    lines += [
        Series(f"{policy}, 1:{first.ratio}", [(100 * b, 100 * first.cells[policy, b].closed.value) for b in CURVE])
        for policy in POLICIES[:2]
    ]
    return drawing("Gap closed", lines, x_label="compute, % of all-heavy's", y_label="% of the gap closed")


def bins(judged: Images) -> str:
    rows, _ = judging.reliability(judged.confidence, judged.light_strict)
    found = Series("ten bins", [(row.confidence, row.right) for row in rows])
    return drawing(
        "Reliability",
        [found, Series("calibrated", [(0.0, 0.0), (1.0, 1.0)], colour="#bbb")],
        x_label="mean confidence of the light images",
        y_label="share strictly right",
    )

"""docs/benchmarks/explore.md and its figure, from what bench_explore measured."""

from __future__ import annotations

import datetime
import os
import platform
import textwrap
from pathlib import Path

from bench.bench_explore import (
    BUDGETS,
    CHOOSING,
    FEWER_ERRORS,
    FOUND,
    FULL,
    JUDGING,
    MOST,
    PART,
    SPLITS,
    STUDY,
    Outcome,
    targets,
)
from cascade_profiler.explore.comparing import BEST_SINGLE, SYSTEMS
from cascade_profiler.report.charts import Series, drawing

NAME = "explore"

PAGE = """# What exploring finds on the testbed

Written by `make bench-explore`; do not edit by hand. [Exploring settings](../exploring.md) says how `cascade explore`
chooses.

{setting}

## Targets

{targets}
{missed}
## Ways of routing at equal compute

*Best single* is the best setting of all {tried} that the budget pays for. The others use the {kept} settings that the
search kept: *random* spreads prompts over two of them by a coin, *prompt rule* sends hard prompts to a heavier one,
*cascade* makes doubtful images again, *hybrid* does both. *Full grid* is a hybrid chosen from all images of all
settings.

{routing}
![q2 by compute](explore-quality.svg)

## How many of the best single setting's errors are left

An error is what an image lacks to a q2 of 1.

{errors}
{verdict}

## The search beside the full grid

The search saw {images} images, {part} of the {grid} of the full grid. In {orders} more searches, with the same prompts
in other orders, the frontier was below that of the full grid by this much, on the prompts that chose (where the full
grid has the advantage of having seen them all):

{searches}
## What was kept

{kept_table}
## What is served at each budget

{mixtures}
## What this does not say

- A toy: see [the page on what a cascade is worth](science.md#what-this-does-not-say). What is good here is not good for
  other models; that is why `cascade explore` measures.
- Passes through the network are not time. A pass with guidance is cheaper than two without (they are one batch), and
  every image has a fixed cost besides. `cascade explore` reckons with measured times.
- Intervals are over prompts, of one training of the models.
"""


def write(folder: Path, outcome: Outcome) -> None:
    """The page and its figure."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}-quality.svg").write_text(figure(outcome), encoding="utf-8")
    (folder / f"{NAME}.md").write_text(page(outcome), encoding="utf-8")


def page(outcome: Outcome) -> str:
    """The text; every verdict follows from the figures."""
    return PAGE.format(
        setting=textwrap.fill(setting(outcome), 120),
        tried=len(outcome.tried),
        targets="".join(f"- {'met' if held else '**missed**'}: {line}\n" for line, held in targets(outcome)),
        missed=missed(outcome),
        kept=len(outcome.found.kept),
        routing=routing(outcome),
        errors=errors(outcome),
        verdict=verdict(outcome),
        images=outcome.found.images,
        part=f"{outcome.part:.1%}",
        grid=CHOOSING * len(outcome.tried),
        orders=len(outcome.orders),
        searches=searches(outcome),
        kept_table=kept(outcome),
        mixtures=mixtures(outcome),
    )


def setting(outcome: Outcome) -> str:
    """What was measured, and where."""
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return (
        f"{date}, {os.cpu_count()} cores ({platform.machine()}), no GPU. The built-in shapes in {len(outcome.tried)} "
        f"settings; prompts that the models were not trained on, with one image each. {prompts(outcome)} Compute is in "
        "images of the heavy weights at 24 guided steps, by passes through the network; a judgement costs "
        f"{JUDGING}. The discriminator is the shipped one, trained on images of the light weights with 2 steps."
    )


def prompts(outcome: Outcome) -> str:
    """On which prompts settings were chosen, and on which the figures are."""
    if outcome.prompts:
        return (
            f"Settings, chains and shares were chosen on {CHOOSING} prompts, and all figures are of {outcome.prompts} "
            "others. In parentheses: 95 % bootstrap intervals over prompts, paired."
        )
    return (
        f"Settings, chains and shares were chosen on one half of {CHOOSING} prompts and reported on the other; figures "
        f"are means of {SPLITS} random splits. In parentheses: the range of 95 % of the splits. The targets were set "
        "for 20 000 other prompts (`--heldout 10`); with so few, differences in the third digit are within noise."
    )


def missed(outcome: Outcome) -> str:
    """What the missed targets have in common."""
    lines = [line for line, held in targets(outcome) if not held]
    reasons = []
    if any("q2" in line for line in lines):
        reasons.append(
            "The study's column is of 1600 prompts: its own standard error is about 0.001, so that its third digit is "
            "not certain either."
        )
    lucky = [f"{one:.0%}" for one in BUDGETS if outcome.compared[FULL, one].mean < outcome.single(one)]
    if lucky:
        reasons.append(
            f"At {', '.join(lucky)}, even what the full grid chooses is below the best single setting on other "
            "prompts. There are tens of thousands of rows, and the best ones differ by two or three errors in 1000 "
            "prompts. So the row that looks best is a lucky one, and often a cheaper one than the budget pays for. "
            "More prompts help; more settings do not."
        )
    if any("errors" in line for line in lines):
        reasons.append(
            "Where a single setting already has few errors, a chain has little to gain: its discriminator was trained "
            "on images of another setting, and does not find the few that are wrong."
        )
    listed = "\n".join(textwrap.fill(reason, 118, initial_indent="- ", subsequent_indent="  ") for reason in reasons)
    return f"Why targets were missed:\n\n{listed}\n" if lines else ""


def routing(outcome: Outcome) -> str:
    systems = (*SYSTEMS, FULL)
    rows = [
        f"| {budget:.0%} | {' | '.join(cell(outcome, system, budget) for system in systems)} | {STUDY[budget]} |\n"
        for budget in BUDGETS
    ]
    return f"| compute | {' | '.join(systems)} | study |\n|{'---|' * (len(systems) + 2)}\n{''.join(rows)}"


def cell(outcome: Outcome, system: str, budget: float) -> str:
    one = outcome.compared[system, budget]
    low, high = one.interval
    return f"{one.mean:.4f} ({low:.4f} to {high:.4f})"


def errors(outcome: Outcome) -> str:
    systems = SYSTEMS[1:]
    rows = []
    for budget in BUDGETS:
        cells = []
        for system in systems:
            left, low, high = outcome.errors_left(system, budget)
            cells.append(f"{left:.0%} ({low:.0%} to {high:.0%})")
        rows.append(f"| {budget:.0%} | {' | '.join(cells)} |\n")
    return f"| compute | {' | '.join(systems)} |\n|{'---|' * (len(systems) + 1)}\n{''.join(rows)}"


def verdict(outcome: Outcome) -> str:
    """Where a single setting is as good as a chain."""
    found = {budget: outcome.errors_left(FOUND, budget) for budget in BUDGETS}
    better = [f"{budget:.0%}" for budget, (_, _, high) in found.items() if high < 1]
    same = [f"{budget:.0%}" for budget, (_, low, high) in found.items() if low <= 1 <= high]
    worse = [f"{budget:.0%}" for budget, (_, low, _) in found.items() if low > 1]
    lines = [f"The hybrid leaves fewer errors than the best single setting at {', '.join(better)}."] if better else []
    if same:
        lines.append(f"At {', '.join(same)} a single setting is as good, as far as these prompts tell.")
    if worse:
        lines.append(f"At {', '.join(worse)} the best single setting is better.")
    wanted = ", ".join(f"{share:.0%} at {budget:.0%}" for budget, share in FEWER_ERRORS.items())
    return "\n".join([*lines, f"The target is at most {wanted}."])


def searches(outcome: Outcome) -> str:
    rows = [
        f"| {number + 1} | {' | '.join(f'{below[budget]:+.4f}' for budget in BUDGETS)} |\n"
        for number, below in enumerate(outcome.orders)
    ]
    head = f"| search | {' | '.join(f'{budget:.0%}' for budget in BUDGETS)} |\n|{'---|' * (len(BUDGETS) + 1)}\n"
    return f"{head}{''.join(rows)}"


def kept(outcome: Outcome) -> str:
    known = outcome.found.evidence
    rows = [
        f"| `{name}` | {seconds:.3f} | {values.mean():.4f} | {outcome.found.kept[name]:.4f} |\n"
        for name, seconds, values in zip(known.names, known.seconds, known.values, strict=True)
    ]
    return (
        f"At most {MOST} settings are kept. Their q2 is of the {known.prompts} prompts of the last round.\n\n"
        f"| setting | compute | q2 | loss without it |\n|---|---|---|---|\n{''.join(rows)}"
    )


def mixtures(outcome: Outcome) -> str:
    rows = [
        f"| {budget:.0%} | {outcome.compared[BEST_SINGLE, budget].mixture.text()} "
        f"| {outcome.compared[FOUND, budget].mixture.text()} |\n"
        for budget in BUDGETS
    ]
    return f"| compute | best single | hybrid |\n|---|---|---|\n{''.join(rows)}"


def figure(outcome: Outcome) -> str:
    lines = [
        Series(system, [(100 * budget, outcome.compared[system, budget].mean) for budget in BUDGETS])
        for system in (*SYSTEMS, FULL)
    ]
    title = f"q2 at equal compute ({PART:.0%} of the grid's images)"
    return drawing(title, lines, x_label="compute, % of an image of 24 guided steps", y_label="q2")

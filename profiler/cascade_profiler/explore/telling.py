"""Says in text what a search found, and what that is worth beside other ways of routing."""

from __future__ import annotations

from typing import Final

from .comparing import BUDGETS, SYSTEMS
from .result import Result
from .searching import Found

REASONS: Final = {
    "no gain": "the frontier does not need it",
    "least gain": "others promised more, and there were too many",
}


def verdicts(found: Found) -> str:
    """The kept and the dropped settings, a line each."""
    seconds = dict(zip(found.evidence.names, found.evidence.seconds.tolist(), strict=True))
    prompts = found.evidence.prompts
    lines = [f"kept {len(found.kept)} after {found.images} images and {prompts} prompts, with the loss without each:"]
    lines += [f"  {name}: {1000 * seconds[name]:.1f} ms an image, {loss:.4f}" for name, loss in found.kept.items()]
    lines += ["dropped:"] if found.dropped else []
    lines += [
        f"  {one.name}: after {one.prompts} prompts, {REASONS[one.why]} (loss at most {one.loss:.4f})"
        for one in found.dropped
    ]
    return "\n".join(lines)


def comparison(result: Result) -> str:
    """A table of all ways of routing."""
    metric = result.metric
    lines = [f"{metric} at equal compute, on prompts that chose nothing (95 % interval); 100 % is the dearest setting:"]
    for budget in BUDGETS:
        lines.append(f"  {budget:.0%} ({1000 * result.price(budget):.1f} ms)")
        for system in SYSTEMS:
            lines.append(f"    {system:11} {result.value(system, budget)}  {result.rows(system, budget)}")
    return "\n".join(lines)

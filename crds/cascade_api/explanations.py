"""Plans in words: why one was made, for people, and the lines that `cascade up` and `cascade plan` print."""

from __future__ import annotations

from typing import Final

from .plan import Expected, Plan
from .reasons import Reason
from .status import QualityStatus

LEAST_RATE = 0.05
"""Images per second below which a variant is not worth a line."""
NOTABLE_SHARE = 0.05
"""Changes of shares that are smaller than this in all are not worth a line."""

_TOLD_SHARE: Final = 0.005
"""Changes of one share that are smaller are not told in a sentence."""
_CAUSES: Final = {
    Reason.INITIAL_PLAN: "This is the first plan",
    Reason.BACKLOG_GREW: "Requests wait longer than was planned",
    Reason.SPEC_CHANGED: "The cascade's spec was changed",
    Reason.PROFILE_CHANGED: "The profile was changed",
    Reason.PROFILE_CORRECTED: "The workers are slower than the profile says",
    Reason.CAPACITY_CHANGED: "Accelerators came or went",
    Reason.REPLICAS_CHANGED: "Workers came or went, or host something else",
    Reason.SHARES_ADJUSTED: "The load of the moment allows other shares",
    Reason.STEADY: "The load is as it was",
    Reason.PARKED: "Nobody has asked for a while",
}
"""What follows from the reasons that need no figures."""


def why(plan: Plan, before: Plan | None) -> str:
    """Why a plan was made, what it changes compared with the one ``before``, and what is expected of it."""
    return f"{_cause(plan, before)}: {_consequence(plan, before)}. {_expectation(plan)}"


def _cause(plan: Plan, before: Plan | None) -> str:
    demand = plan.expected.demand
    if plan.reason in (Reason.DEMAND_ROSE, Reason.DEMAND_FELL):
        word = "More" if plan.reason is Reason.DEMAND_ROSE else "Less"
        if before is None:
            return f"{word} is asked for, {demand:.1f} images a second"
        return f"{word} is asked for, {demand:.1f} images a second instead of {before.expected.demand:.1f}"
    return _CAUSES.get(plan.reason, str(plan.reason))


def _consequence(plan: Plan, before: Plan | None) -> str:
    if plan.parked:
        return "the cascade is parked, and wakes at the next request"
    told = [
        f"{name} makes {share:.0%} of the images{_instead(name, share, before)}"
        for name, share in sorted(plan.image_shares.items(), key=lambda item: -item[1])
    ]
    if before is not None and len(plan.workers) != len(before.workers):
        told.append(f"there are {len(plan.workers)} workers instead of {len(before.workers)}")
    return ", ".join(told)


def _instead(name: str, share: float, before: Plan | None) -> str:
    if before is None or before.parked:
        return ""
    was = before.image_shares.get(name, 0.0)
    return "" if abs(share - was) < _TOLD_SHARE else f" instead of {was:.0%}"


def _expectation(plan: Plan) -> str:
    expected = plan.expected
    return (
        f"Expected are a quality of {expected.quality:.3g}{floor_words(expected)}, and 99% of the images within "
        f"{expected.latency_p99:.2g} s, of {plan.objective_s:.3g} s allowed."
    )


def floor_words(expected: Expected) -> str:
    """The quality floor of a plan, and whether it is held, to be put behind the quality; empty without a floor."""
    floor = expected.floor
    if floor is None:
        return ""
    return f" (no worse than {floor.no_worse_than:g}: {'held' if floor.held else 'not held'})"


def floor_line(quality: QualityStatus) -> str:
    """How a quality floor is held, and what all-heavy would take, in one line."""
    held = "held" if quality.held else "not held"
    line = f"no worse than {quality.no_worse_than}: {held}, {quality.expected} expected"
    if quality.all_heavy_workers is None:
        return line
    return (
        f"{line}; all-heavy would take {quality.all_heavy_workers} workers, {quality.all_heavy_cost_per_hour} per hour"
    )


def plan_line(plan: Plan) -> str:
    """What a plan does and why, in one line."""
    expected = plan.expected
    figures = f"expects p99 {expected.latency_p99:.2f} s, quality {expected.quality:.3g}{floor_words(expected)}"
    return f"plan: {plan.reason}: {expected.demand:.1f} requests/s → {_pools(plan)}; {_shares(plan)}; {figures}"


def stage_lines(plan: Plan) -> list[str]:
    """For each variant, the images per second that it must serve, and those that its ready replicas could make."""
    lines = []
    for name, calls in plan.call_shares.items():
        rate = calls * plan.expected.demand
        pools = [pool for pool in plan.pools if pool.variant == name and pool.ready]
        most = sum(len(pool.ready) / pool.image_s for pool in pools)
        where = ", ".join(f"{len(pool.ready)} on {pool.accelerator_class}" for pool in pools) or "no replica"
        if rate >= LEAST_RATE:
            lines.append(f"{name} must serve {rate:.1f} images/s and has {where}: {most:.1f} images/s at most")
    return lines


def worth_telling(plan: Plan, told: Plan | None) -> bool:
    """Whether a plan differs from the last printed one by more than a small change of its shares."""
    if told is None or _pools(plan) != _pools(told) or _chains(plan) != _chains(told):
        return True
    before, now = told.planned_shares, plan.planned_shares
    return sum(abs(now[route] - before[route]) for route in now) >= 2 * NOTABLE_SHARE


def _pools(plan: Plan) -> str:
    served = [f"{pool.variant} ×{len(pool.ready)} (batch {pool.batch})" for pool in plan.pools if pool.ready]
    draining = [f"{worker.id} draining" for worker in plan.workers if worker.state == "draining"]
    return ", ".join([*served, *draining]) or "no replica ready"


def _shares(plan: Plan) -> str:
    shares = plan.planned_shares
    return f"{', '.join(_chains(plan))}: direct {shares['direct']:.0%}, escalated {shares['escalated']:.0%}"


def _chains(plan: Plan) -> list[str]:
    return sorted({row.path for row in plan.rows})

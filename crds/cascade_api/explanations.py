"""Plans in words: why one was made, for people, and the lines that `cascade up` and `cascade plan` print."""

from __future__ import annotations

from typing import Final

from .plan import Expected, Plan, PlanRow
from .reasons import Reason
from .status import QualityStatus

LEAST_RATE = 0.05
"""Images per second below which a variant is not worth a line."""
NOTABLE_SHARE = 0.05
"""Changes of shares that are smaller than this in all are not worth a line."""

LEAST_DEGRADED: Final = 0.005
"""Expected shares of degraded answers that are smaller are not told."""
_TOLD_SHARE: Final = 0.005
"""Changes of one share that are smaller are not told in a sentence."""
_TOLD_CHANGE: Final = 0.02
"""Changes of demand, or of the time for an image, that are smaller are not told."""
_CAUSES: Final = {
    Reason.INITIAL_PLAN: "No earlier plan was found, so this is the first",
    Reason.BACKLOG_GREW: "Requests wait longer than was planned",
    Reason.SPEC_CHANGED: "The cascade's spec was changed",
    Reason.PROFILE_CHANGED: "The profile was changed",
    Reason.PROFILE_CORRECTED: "The workers are slower than the profile says",
    Reason.CAPACITY_CHANGED: "Accelerators came or went",
    Reason.REPLICAS_CHANGED: "Workers came or went, or host something else",
    Reason.STEADY: "The load is as it was",
    Reason.PARKED: "Nobody has asked for a while",
}
"""What follows from the reasons that need no figures."""


def why(plan: Plan, before: Plan | None) -> str:
    """Why a plan was made, what it changes compared with the one ``before``, and what is expected of it."""
    return f"{_cause(plan, before)}: {_consequence(plan, before)}. {_expectation(plan)}"


def _cause(plan: Plan, before: Plan | None) -> str:
    demand = plan.expected.demand
    if plan.reason is Reason.INITIAL_PLAN and before is not None and before.reason is Reason.INITIAL_PLAN:
        return "Workers that were wanted at the start came or went"
    if plan.reason is Reason.SHARES_ADJUSTED:
        return _of_shares(plan, before)
    if plan.reason in (Reason.DEMAND_ROSE, Reason.DEMAND_FELL):
        asked = _change_of_demand(plan, before)
        if asked is not None:
            return asked
        word = "More" if plan.reason is Reason.DEMAND_ROSE else "No more"
        return f"{word} is asked for than when workers were last decided on, {demand:.1f} images a second"
    return _CAUSES.get(plan.reason, str(plan.reason))


def _change_of_demand(plan: Plan, before: Plan | None) -> str | None:
    """How the demand differs from that of the plan ``before``; None if it hardly does."""
    demand, was = plan.expected.demand, before.expected.demand if before is not None else None
    if was is None or abs(demand - was) <= _TOLD_CHANGE * was:
        return None
    return f"{'More' if demand > was else 'Less'} is asked for, {demand:.1f} images a second instead of {was:.1f}"


def _of_shares(plan: Plan, before: Plan | None) -> str:
    """Why only shares changed: what the workers have time for, and whether the demand explains it."""
    if before is None:
        return "The shares follow the load"
    now, was = plan.answer_s, before.answer_s
    if abs(now - was) <= _TOLD_CHANGE * was:
        return "The load is served as well by other shares"
    demand, time = _change_of_demand(plan, before), "less" if now < was else "more"
    if demand is not None and demand.startswith("More") == (now < was):
        return f"{demand}, which leaves {time} time for each image"
    rest = (
        "queues and other cascades on the workers" if now < was else "shorter queues or other cascades on the workers"
    )
    return f"At this demand, {rest} leave {time} time for each image"


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
    said = (
        f"Expected are a quality of {expected.quality:.3g}{floor_words(expected)}, and 99% of the images within "
        f"{expected.latency_p99:.2g} s, of {plan.objective_s:.3g} s allowed"
    )
    if expected.degraded < LEAST_DEGRADED:
        return f"{said}."
    return f"{said}; {expected.degraded:.0%} get a quicker image than was meant for them, to be in time."


def more_than_asked(plan: Plan, asked: float) -> str | None:
    """Why a plan is for more requests per second than are ``asked`` for; None if it is not."""
    demand = plan.expected.demand
    if demand <= asked * (1 + _TOLD_SHARE):
        return None
    if demand * plan.objective_s <= 1 + _TOLD_SHARE:
        return (
            f"planned for {demand:.3g} requests/s, not for {asked:.3g}: a plan is for at least one request in each "
            f"spec.objective.latency ({plan.objective_s:g} s), so that the next one finds workers"
        )
    return f"planned for {demand:.3g} requests/s, not for {asked:.3g}: the forecast adds a margin"


def latency_words(expected: Expected) -> str:
    """The latency that is expected, and the share of the answers that will be degraded to keep it."""
    degraded = f", {expected.degraded:.0%} degraded" if expected.degraded >= LEAST_DEGRADED else ""
    return f"p99 {expected.latency_p99:.2f} s{degraded}"


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
    """Of which cascade a plan is, why it was made, and what it does, in one line."""
    return f"plan of {plan.cascade}: {plan.reason}: {plan_words(plan)}"


def plan_words(plan: Plan) -> str:
    """What a plan does: its demand, the pools that serve it, the shares, and what is expected."""
    expected = plan.expected
    figures = f"expects {latency_words(expected)}, quality {expected.quality:.3g}{floor_words(expected)}"
    return f"{expected.demand:.1f} requests/s → {_pools(plan)}; {_shares(plan)}; {figures}"


def row_words(row: PlanRow) -> str:
    """What becomes of the prompts of a row; all figures are shares of all prompts, so that those of all rows add up."""
    if row.alone:
        return f"{row.share:.0%} of all prompts by {row.path}"
    direct, escalated = row.share * row.direct, row.share * row.escalated
    light = row.share - direct - escalated
    return (
        f"{row.share:.0%} of all prompts by {row.path}: "
        f"{direct:.0%} go direct, {escalated:.0%} escalate, {light:.0%} stay light"
    )


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

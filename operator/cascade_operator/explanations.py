"""Plans in words, for the lines that `cascade up` prints and for `cascade plan`."""

from __future__ import annotations

from cascade_api.plan import Plan

LEAST_RATE = 0.05
"""Images per second below which a variant is not worth a line."""
NOTABLE_SHARE = 0.05
"""Changes of shares that are smaller than this in all are not worth a line."""


def plan_line(plan: Plan) -> str:
    """What a plan does and why, in one line."""
    expected = plan.expected
    figures = f"expects p99 {expected.latency_p99:.2f} s, quality {expected.quality:.3g}"
    return f"plan: {plan.reason}: {expected.demand:.1f} requests/s → {_pools(plan)}; {_shares(plan)}; {figures}"


def stage_lines(plan: Plan) -> list[str]:
    """For each variant, the images per second that it must serve, and those that its ready replicas could make."""
    asked: dict[str, float] = {}
    for row in plan.rows:
        for name, part in ((row.light, 1 - row.direct), (row.heavy, row.heavy_share)):
            asked[name] = asked.get(name, 0.0) + row.share * part * plan.expected.demand
    lines = []
    for name, rate in asked.items():
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

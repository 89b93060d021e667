"""A cascade that nobody asks: after `spec.policy.scaleToZeroAfter` nothing of it runs, until a request comes. Pure."""

from __future__ import annotations

from dataclasses import replace

from cascade_api.quantities import duration_s
from cascade_api.reasons import Reason

from .memory import CascadeMemory
from .situation import Situation


def note_arrivals(it: Situation, now: float) -> None:
    """Remember when somebody last asked, and whether that is long ago; a cascade seen first counts as asked now."""
    demand, policy = it.view.demand, it.view.cascade.spec.policy
    if policy.scale_to_zero_after is None or demand is None:
        return
    last = max((second for second, count in demand.counts if count), default=0)
    asked_at_s = max(it.memory.asked_at_s, float(last))
    if not asked_at_s and not it.memory.parked:
        asked_at_s = now
    it.memory = replace(it.memory, asked_at_s=asked_at_s)
    quiet = now - asked_at_s >= duration_s(policy.scale_to_zero_after)
    waiting = any((it.view.queue_depths or {}).values())
    wanted = any(variant.replicas.min for variant in it.view.cascade.spec.variants)
    it.idle = quiet and not waiting and not wanted and it.view.plan is not None


def park(it: Situation, now: float) -> None:
    """Want no replica of an idle cascade."""
    if not it.memory.parked:
        it.news = Reason.PARKED
    it.memory = replace(
        it.memory,
        target=(),
        parked=True,
        reason=Reason.PARKED,
        verdict=Reason.OPTIMAL,
        binding=(),
        cost_per_hour=0.0,
        decided_at_s=now,
        decided_demand=0.0,
    )


def asleep(it: Situation) -> bool:
    """Whether nothing of the cascade is wanted."""
    return it.idle or waits_for_requests(it.memory)


def waits_for_requests(memory: CascadeMemory) -> bool:
    """Whether a cascade was parked and no allocation was made for it since."""
    return memory.parked and not memory.target

"""Decides what to do with a request next, from the plan, the loads of the pools and the time that is left.

Each decision is a pure function. Times are seconds on the router's monotonic clock. With `Outlook.execution_s` a high
quantile of the execution time, a request joins a pool only if

    expected wait ≤ caution · patience · slack    where    slack = deadline - now - execution_s

and it leaves the queue when patience · slack has passed. So an image that is begun is almost always finished in time,
and no decision plans to answer after the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from cascade_api.plan import PATIENCE
from cascade_api.reasons import Refusal

Stage = Literal["light", "heavy"]
Overload = Literal["degrade", "strict"]

MAX_ATTEMPTS: Final = 4
"""Most replicas on which one stage of one request is tried."""
CAUTION: Final[Mapping[Overload, float]] = {"strict": 0.8, "degrade": 0.9}
"""Part of its slack that a request may be expected to wait if no other image can be the answer. It is below 1 since
expectations can be wrong: a client that is refused at once can go elsewhere, and one that waits in vain cannot. Under
``degrade`` the value is higher, because the wait is for the quick model; 0.9 loses least on bursts
(docs/benchmarks/policies.md)."""


class Outlook(NamedTuple):
    """What a request can expect from a pool if it joins now; ``pool`` names its queue."""

    pool: str
    variant: str
    ready: int
    """Replicas that take new work."""
    waiting: int
    expected_wait_s: float
    execution_s: float

    def finish(self, now: float) -> float:
        return now + self.expected_wait_s + self.execution_s


@dataclass(frozen=True, slots=True)
class Make:
    """Have a pool make the image; leave its queue ``pool`` at ``start_by``, when starting it would be too late."""

    stage: Stage
    pool: str
    variant: str
    start_by: float
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Accept:
    """The light image is the answer; it is ``degraded`` if a heavy one was wanted."""

    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request gets no image.

    ``retry_after_s`` says after how many seconds another request could succeed (None: it could not), and ``field``
    names the field of the request that is wrong, if one is.
    """

    reason: Refusal
    message: str
    retry_after_s: float | None = None
    field: str | None = None


def best(outlooks: Sequence[Outlook], *, now: float) -> Outlook | None:
    """The pool that would finish first; None if no pool has a ready replica."""
    return min((o for o in outlooks if o.ready > 0), key=lambda o: o.finish(now), default=None)


def admit(
    *,
    direct: bool,
    light: Sequence[Outlook],
    heavy: Sequence[Outlook],
    deadline: float,
    now: float,
    overload: Overload,
    queue_limit: int,
    escalates: bool = False,
    patience: float = PATIENCE,
) -> Make | Refuse:
    """Where a new request goes first.

    Under ``strict``, a request whose row ``escalates`` also reserves time for the heavy model. It does not if the heavy
    model would be too late even after an immediate light image: then the answer can still be a light image that is good
    enough.

    Under ``degrade``, a direct request waits for the heavy model for only a part of its time (``patience``), as long as
    the light model could still make its image; after that it turns to the light model. A request is refused only if
    neither model can make its image in time.
    """

    def join(
        stage: Stage, pools: Sequence[Outlook], *, patience: float = 1.0, caution: float = 1.0, by: float = deadline
    ) -> Make | Refuse:
        pool = best(pools, now=now)
        return _join(stage, pool, deadline=by, now=now, queue_limit=queue_limit, patience=patience, caution=caution)

    if overload == "strict":
        if direct:
            return join("heavy", heavy, caution=CAUTION[overload])
        soonest, second = best(light, now=now), best(heavy, now=now) if escalates else None
        by = deadline - (second.finish(now) - now) if second else deadline
        in_time = soonest is not None and now + soonest.execution_s <= by
        return join("light", light, caution=CAUTION[overload], by=by if in_time else deadline)
    caution = CAUTION[overload]
    in_light, in_heavy = join("light", light, caution=caution), join("heavy", heavy, caution=caution)
    if not direct:
        return in_light if isinstance(in_light, Make) or isinstance(in_heavy, Refuse) else in_heavy
    if not isinstance(in_light, Make):
        return in_heavy
    first = join("heavy", heavy, patience=patience)
    return first if isinstance(first, Make) else replace(in_light, degraded=True)


def after_light(
    *,
    escalate: bool,
    heavy: Sequence[Outlook],
    deadline: float,
    now: float,
    overload: Overload,
    queue_limit: int,
    patience: float = PATIENCE,
) -> Accept | Make | Refuse:
    """What happens after a light image was made; ``escalate`` says that its confidence is below the threshold."""
    if not escalate:
        return Accept()
    choice = _join(
        "heavy",
        best(heavy, now=now),
        deadline=deadline,
        now=now,
        queue_limit=queue_limit,
        patience=patience if overload == "degrade" else 1.0,
    )
    return choice if isinstance(choice, Make) else _too_late(choice, overload)


def may_fall_back(reason: Refusal, *, overload: Overload) -> bool:
    """Whether a light image may be the answer if the heavy one was not made for this reason."""
    return overload == "degrade" and reason is not Refusal.INVALID


def instead(
    stage: Stage,
    *,
    others: Sequence[Outlook],
    deadline: float,
    now: float,
    overload: Overload,
    queue_limit: int,
) -> Make | None:
    """Have the other model make the image that the model of ``stage`` does not make; None if that would be too late.

    A light image in place of a heavy one is ``degraded``. Under ``strict`` the answer is always None.

    Args:
        stage: the stage whose model does not make the image.
        others: the pools of the other model.
        deadline: when the image must have been made.
        now: the time now.
        overload: the cascade's overload policy.
        queue_limit: waiting entries at which a pool takes no more.
    """
    if overload == "strict":
        return None
    other: Stage = "light" if stage == "heavy" else "heavy"
    step = _join(other, best(others, now=now), deadline=deadline, now=now, queue_limit=queue_limit, patience=1.0)
    return replace(step, degraded=stage == "heavy") if isinstance(step, Make) else None


def may_turn(stage: Stage, reason: Refusal, *, overload: Overload) -> bool:
    """Whether the other model may be tried after the model of ``stage`` made no image for this reason.

    If several light replicas failed on a prompt, the prompt itself may be the cause, so it is not sent to heavy ones.
    """
    return may_fall_back(reason, overload=overload) and (stage == "heavy" or reason is not Refusal.MODEL_FAILED)


def on_failure(
    *,
    stage: Stage,
    attempts: int,
    outlooks: Sequence[Outlook],
    deadline: float,
    now: float,
    retry_budget: float,
) -> Make | Refuse:
    """After a replica failed: try another one, or give up.

    Args:
        stage: the stage that failed.
        attempts: replicas tried so far in this stage, including the failed one; 0 if no replica was available.
        outlooks: the pools of the stage's variant.
        deadline: when the image must have been made.
        now: the time now.
        retry_budget: retries that the router may still make; below 1, none.
    """
    if attempts >= MAX_ATTEMPTS:
        return Refuse(Refusal.MODEL_FAILED, f"{attempts} replicas failed to make the image, one after the other")
    pool = best(outlooks, now=now)
    if pool is None:
        return Refuse(Refusal.NO_REPLICA, "the replica failed and no other is ready", 1.0)
    if attempts and retry_budget < 1:
        return Refuse(
            Refusal.MODEL_FAILED, "a replica failed, and so many have failed lately that the request is not tried again"
        )
    if now + pool.execution_s > deadline:
        return Refuse(Refusal.DEADLINE_EXCEEDED, "a replica failed, and another would finish after the deadline")
    return Make(stage, pool.pool, pool.variant, deadline - pool.execution_s)


def _too_late(refusal: Refuse, overload: Overload) -> Accept | Refuse:
    if overload == "degrade":
        return Accept(degraded=True)
    if refusal.reason is Refusal.DEADLINE_UNREACHABLE:
        return Refuse(Refusal.DEADLINE_EXCEEDED, refusal.message, refusal.retry_after_s)
    return refusal


def _join(
    stage: Stage,
    pool: Outlook | None,
    *,
    deadline: float,
    now: float,
    queue_limit: int,
    patience: float,
    caution: float = 1.0,
) -> Make | Refuse:
    """Join a pool for at most the part ``patience`` of the slack, if the expected wait is at most ``caution`` of it."""
    if pool is None:
        return Refuse(Refusal.NO_REPLICA, f"no replica of the {stage} model is ready", 1.0)
    if pool.waiting >= queue_limit:
        return Refuse(
            Refusal.QUEUE_FULL,
            f"{pool.waiting} requests wait for the {stage} model, which is the limit",
            pool.expected_wait_s,
        )
    slack_s = deadline - now - pool.execution_s
    if pool.finish(now) > deadline or pool.expected_wait_s > caution * patience * slack_s:
        return Refuse(
            Refusal.DEADLINE_UNREACHABLE,
            _why_not(stage, pool, left_s=deadline - now),
            # If the deadline is shorter than the execution alone, trying again does not help.
            pool.expected_wait_s if slack_s >= 0 else None,
        )
    return Make(stage, pool.pool, pool.variant, now + patience * slack_s)


def _why_not(stage: Stage, pool: Outlook, *, left_s: float) -> str:
    if math.isinf(pool.expected_wait_s):
        return (
            f"deadline: more urgent requests take all the time of the {stage} model; use a higher priority or try later"
        )
    left = f"{left_s:.3f} s are left, but" if left_s > 0 else "it has passed, and"
    return (
        f"deadline: {left} the {stage} model needs about "
        f"{pool.expected_wait_s + pool.execution_s:.3f} s (waiting {pool.expected_wait_s:.3f} s); "
        "ask for a longer deadline or try later"
    )

"""The images of one call begin together or not at all, and each reckons with those before it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cascade_api.reasons import Refusal
from cascade_router.cascade.calls import hear_together
from cascade_router.cascade.decisions import Refuse
from cascade_router.cascade.effects import Enqueue, Wait
from cascade_router.cascade.events import Arrived, Begun
from cascade_router.cascade.machine import RequestMachine
from cascade_router.cascade.state import CascadeState
from cascade_router.prompts.scorers import make_scorer
from cascade_router.queue import PoolLoad
from support.engine import LIMITS
from support.router import make_plan

IDLE = PoolLoad(waiting=0, in_flight=0, expected_wait_s=0.0)


def state(*, replicas: int, load: PoolLoad = IDLE) -> CascadeState:
    """A cascade of one variant; a replica makes one image at a time, in a second."""
    endpoints = {"shapes-heavy": [f"h{number}:1" for number in range(replicas)], "shapes-light": []}
    times = dict.fromkeys(endpoints, 1.0)
    plan = make_plan(
        endpoints, chain=["shapes-heavy"], direct=1, escalation=0, batch=1, execution_s=times, overload="strict"
    )
    return CascadeState(plan, load=lambda _: load, limits=LIMITS, scorer=make_scorer("rules"), start=0.0)


def call(cascade: CascadeState, *, images: int, within_s: float) -> Sequence[RequestMachine]:
    return [
        RequestMachine(cascade, text="a cat", band=1, coin=0.5, received=0.0, deadline=within_s, ahead=ahead)
        for ahead in range(images)
    ]


@pytest.mark.parametrize(("images", "begins"), [(1, True), (4, True), (8, True), (10, False)])
def test_a_call_is_refused_as_a_whole_if_its_last_image_would_be_too_late(images: int, begins: bool) -> None:
    """Two replicas make two images at a time; the tenth waits for 4 s, and may wait for 80 % of its slack of 4.8 s."""
    heard = hear_together(call(state(replicas=2), images=images, within_s=5.8), Begun(), 0.0)
    if begins:
        assert not isinstance(heard, Refuse)
        assert [[type(effect) for effect in effects] for effects in heard] == [[Enqueue]] * images
    else:
        assert isinstance(heard, Refuse)
        assert heard.reason is Refusal.DEADLINE_UNREACHABLE


def test_free_replicas_take_as_many_at_once() -> None:
    assert not isinstance(hear_together(call(state(replicas=10), images=10, within_s=1.1), Begun(), 0.0), Refuse)
    busy = PoolLoad(waiting=0, in_flight=9, expected_wait_s=0.0)
    cascade = state(replicas=10, load=busy)
    assert isinstance(hear_together(call(cascade, images=10, within_s=1.1), Begun(), 0.0), Refuse)


def test_a_router_that_has_enough_in_hand_refuses_all() -> None:
    machines = call(state(replicas=1), images=3, within_s=9.0)
    refused = hear_together(machines, Arrived(in_hand=LIMITS.in_hand + 1), 0.0)
    assert isinstance(refused, Refuse)
    assert refused.reason is Refusal.QUEUE_FULL


def test_nothing_waits_for_a_call_that_was_refused() -> None:
    cascade = state(replicas=0)
    parked = cascade.plan.model_copy(update={"parked": True})
    cascade.follow(parked)
    machines = call(cascade, images=LIMITS.waiting + 1, within_s=9.0)
    assert isinstance(hear_together(machines, Begun(), 0.0), Refuse)
    assert cascade.waiting == 0
    heard = hear_together(call(cascade, images=2, within_s=9.0), Begun(), 0.0)
    assert not isinstance(heard, Refuse)
    assert [[type(effect) for effect in effects] for effects in heard] == [[Wait], [Wait]]
    assert cascade.waiting == 2

"""Plans whose workers serve several variants: shared queues, and a quick variant that stands in for those of a row."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cascade_api.plan import Plan
from cascade_api.reasons import Refusal, Route
from cascade_router.cascade.choosing import NO_WISH, Wish
from cascade_router.cascade.decisions import Refuse
from cascade_router.cascade.effects import Answer, Effect, Enqueue, Infer
from cascade_router.cascade.events import Begun, Expired, Granted, Made, OutOfTime
from cascade_router.cascade.machine import RequestMachine
from cascade_router.cascade.state import CascadeState, Limits
from cascade_router.prompts.scorers import make_scorer
from cascade_router.queue.planned_pools import PlannedPools
from cascade_router.queue.work import NOTHING_SERVES, PoolLoad

SECONDS = {"quick": 0.1, "medium": 1.5, "large": 2.5}
BAND, OBJECTIVE_S = 1, 6.0
IDLE = PoolLoad(waiting=0, in_flight=0, expected_wait_s=0.0, ahead=(0, 0))


def shared_plan(**overrides: Any) -> Plan:
    """Two workers that serve three variants; medium and large images wait in one queue."""
    document = {
        "generation": 1,
        "cascade": "default/shapes",
        "issuedAt": "2026-11-20T10:00:00Z",
        "reason": "Steady",
        "objectiveS": OBJECTIVE_S,
        "attainment": 0.99,
        "overload": "degrade",
        "standIn": "quick",
        "sizes": ["32x32"],
        "variants": {
            name: {
                "weights": name,
                "settings": {"steps": 1},
                "classes": {
                    "cpu": {
                        "queue": "large" if name == "medium" else None,
                        "batch": 8 if name == "quick" else 1,
                        "executionS": {"32x32": {"1": seconds}},
                    }
                },
            }
            for name, seconds in SECONDS.items()
        },
        "rows": [{"share": 1, "chain": ["medium", "large"], "direct": 1, "escalation": 0}],
        "workers": [
            {
                "id": f"cpu-{number}",
                "endpoint": f"cpu-{number}:8001",
                "class": "cpu",
                "state": "ready",
                "hosts": list(SECONDS),
                "credits": {"quick": 8, "medium": 1, "large": 1},
            }
            for number in range(2)
        ],
        "expected": {"demand": 1, "latencyP99": 1, "quality": 1},
    }
    return Plan.model_validate(document | overrides)


def begun(
    plan: Plan, *, loads: dict[str, PoolLoad] | None = None, wish: Wish = NO_WISH
) -> tuple[RequestMachine, list[Effect]]:
    """A request at time zero, and what it asks for first."""
    known = {"quick.cpu": IDLE, "large.cpu": IDLE} | (loads or {})
    state = CascadeState(
        plan,
        load=lambda queue: known.get(queue, NOTHING_SERVES),
        limits=Limits(waiting=100, in_hand=100),
        scorer=make_scorer("rules"),
        start=0.5,
    )
    machine = RequestMachine(state, text="a", band=BAND, coin=0.5, received=0.0, deadline=OBJECTIVE_S, wish=wish)
    return machine, list(machine.on(Begun(), 0.0))


def queue_of(effects: list[Effect]) -> tuple[str, str]:
    """Where a request waits, and for which variant."""
    (enqueue,) = [effect for effect in effects if isinstance(effect, Enqueue)]
    return enqueue.step.pool, enqueue.step.variant


def test_variants_of_one_queue_share_the_credits_of_their_workers() -> None:
    pools = PlannedPools("router-1")
    pools.follow(shared_plan())
    told = {sync.pool: {spec.id: spec.capacity for spec in sync.replicas} for sync in pools.syncs}
    assert told == {"large.cpu": {"cpu-0": 1, "cpu-1": 1}, "quick.cpu": {"cpu-0": 8, "cpu-1": 8}}


def test_a_request_waits_in_the_queue_of_its_variant_or_in_the_one_that_it_shares() -> None:
    rows = [{"share": 1, "chain": ["medium", "large"], "direct": 0, "escalation": 1}]
    assert queue_of(begun(shared_plan())[1]) == ("large.cpu", "large")
    assert queue_of(begun(shared_plan(rows=rows))[1]) == ("large.cpu", "medium")


def test_times_are_known_by_variant_though_the_queue_is_shared() -> None:
    rows = [{"share": 1, "chain": ["medium", "large"], "direct": 0, "escalation": 1}]
    machine, first = begun(shared_plan(rows=rows))
    assert isinstance(first[0], Enqueue)
    # By the last useful start a medium image can still be made, of 1.5 s.
    assert first[0].step.start_by == pytest.approx(OBJECTIVE_S - SECONDS["medium"])
    (infer,) = machine.on(Granted("cpu-0"), 0.0)
    assert isinstance(infer, Infer)
    assert infer.step.variant == "medium"


def test_who_serves_a_variant_serves_the_one_whose_queue_it_waits_in() -> None:
    workers = [worker.wire() | {"credits": {"quick": 8, "medium": 1}} for worker in shared_plan().workers]
    with pytest.raises(ValidationError, match="whose queue 'medium' waits in"):
        shared_plan(workers=workers)


def test_the_stand_in_makes_the_image_where_the_row_could_not_begin_in_time() -> None:
    machine, _ = begun(shared_plan())
    effects = list(machine.on(Expired(), 5.0))
    assert queue_of(effects) == ("quick.cpu", "quick")
    machine.on(Granted("cpu-0"), 5.0)
    answer = machine.on(Made("image", 0.1, None), 5.2)[-1]
    assert isinstance(answer, Answer)
    assert (answer.variant, answer.route) == ("quick", Route.DEGRADED)


def test_time_for_the_stand_in_is_left_when_an_image_takes_too_long() -> None:
    machine, _ = begun(shared_plan())
    (infer,) = machine.on(Granted("cpu-0"), 1.0)
    assert isinstance(infer, Infer)
    # Until more is known a full batch is reckoned with, and a fifth more.
    assert infer.timeout_s == pytest.approx(5.0 - 1.2 * 8 * SECONDS["quick"])
    assert queue_of(list(machine.on(OutOfTime(), 1.0 + infer.timeout_s))) == ("quick.cpu", "quick")


def test_the_stand_in_is_asked_at_once_where_the_row_has_too_much_to_do() -> None:
    full = IDLE._replace(waiting=90, expected_wait_s=30.0, ahead=(90, 90))
    assert queue_of(begun(shared_plan(), loads={"large.cpu": full})[1]) == ("quick.cpu", "quick")


def test_the_stand_in_is_asked_once() -> None:
    machine, _ = begun(shared_plan())
    machine.on(Expired(), 5.0)
    (end,) = machine.on(Expired(), 5.9)
    assert isinstance(end, Refuse)
    assert end.reason is Refusal.DEADLINE_EXCEEDED


@pytest.mark.parametrize("overrides", [{"overload": "strict"}, {"standIn": None}])
def test_nothing_stands_in_where_images_are_not_degraded_or_the_plan_names_none(overrides: dict[str, Any]) -> None:
    machine, _ = begun(shared_plan(**overrides))
    assert not any(isinstance(effect, Enqueue) for effect in machine.on(Expired(), 5.9))


@pytest.mark.parametrize("has_it", [True, False])
def test_the_stand_in_draws_only_where_it_has_the_adapter(has_it: bool) -> None:
    plan = shared_plan()
    variants = {
        name: part.model_copy(update={"adapters": {"ink": "1a"} if has_it or name != "quick" else {}})
        for name, part in plan.variants.items()
    }
    machine, _ = begun(plan.model_copy(update={"variants": variants}), wish=Wish(lora="ink"))
    after = list(machine.on(Expired(), 5.0))
    assert queue_of(after) == ("quick.cpu", "quick") if has_it else isinstance(after[-1], Refuse)


def test_the_plan_says_how_long_a_request_waits_for_the_heavy_variant() -> None:
    def start_by(patience: float) -> float:
        (enqueue,) = begun(shared_plan(patience=patience))[1]
        assert isinstance(enqueue, Enqueue)
        return enqueue.step.start_by

    slack_s = OBJECTIVE_S - SECONDS["large"]
    assert start_by(0.5) == pytest.approx(0.5 * slack_s)
    assert start_by(0.8) == pytest.approx(0.8 * slack_s)


def test_a_crowd_is_let_in_where_the_plan_says_that_more_workers_would_come_for_it() -> None:
    full = {"quick.cpu": PoolLoad(waiting=50, in_flight=16, expected_wait_s=8.0, ahead=(50, 50))}
    rows = [{"share": 1, "chain": ["quick", "large"], "direct": 0, "escalation": 0}]

    def first(crowd: dict[str, float] | None) -> Effect:
        plan = shared_plan(rows=rows, standIn=None).model_dump(mode="json", by_alias=True)
        plan["variants"]["quick"]["classes"]["cpu"]["crowd"] = crowd
        (effect,) = begun(Plan.model_validate(plan), loads={"large.cpu": NOTHING_SERVES, **full})[1]
        return effect

    assert isinstance(first(None), Refuse)
    assert isinstance(first({"workers": 2, "afterS": 1.0}), Refuse), "as many are there already"
    assert isinstance(first({"workers": 8, "afterS": 1.0}), Enqueue), "after 1 s, a fourth of 8 s"
    assert isinstance(first({"workers": 8, "afterS": 4.5}), Refuse)

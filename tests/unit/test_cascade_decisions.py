"""Where a request goes next, from loads, deadline and policy alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.reasons import Refusal
from cascade_api.report import BatchTime
from cascade_router.cascade.decisions import (
    MAX_ATTEMPTS,
    Accept,
    Make,
    Outlook,
    Refuse,
    Stage,
    admit,
    after_light,
    instead,
    may_fall_back,
    may_turn,
    on_failure,
)
from cascade_router.cascade.estimates import ENOUGH, ExecutionEstimates, LatestBatches
from cascade_router.cascade.retries import CAPACITY, RetryBudget

NOW = 100.0


def pool(name: str, *, wait: float = 0.0, execution: float = 0.1, ready: int = 1, waiting: int = 0) -> Outlook:
    return Outlook(
        pool=f"{name}.cpu", variant=name, ready=ready, waiting=waiting, expected_wait_s=wait, execution_s=execution
    )


def first_stage(**changes: Any) -> Make | Refuse:
    given: dict[str, Any] = {
        "direct": False,
        "light": [pool("light", execution=0.01)],
        "heavy": [pool("heavy")],
        "deadline": NOW + 1,
        "now": NOW,
        "overload": "degrade",
        "queue_limit": 10,
    }
    return admit(**{**given, **changes})


def second_stage(**changes: Any) -> Accept | Make | Refuse:
    given: dict[str, Any] = {
        "escalate": True,
        "heavy": [pool("heavy")],
        "deadline": NOW + 1,
        "now": NOW,
        "overload": "degrade",
        "queue_limit": 10,
    }
    return after_light(**{**given, **changes})


def test_a_prompt_goes_light_and_a_hard_one_direct() -> None:
    assert first_stage() == Make("light", "light.cpu", "light", pytest.approx(NOW + 0.99))  # type: ignore[arg-type]
    strict = first_stage(direct=True, overload="strict")
    assert strict == Make("heavy", "heavy.cpu", "heavy", pytest.approx(NOW + 0.9))  # type: ignore[arg-type]


def test_where_a_light_image_stands_in_half_the_slack_is_waited_for_the_heavy_model() -> None:
    for wait, stage in ((0.4, "heavy"), (0.5, "light")):
        step = first_stage(direct=True, heavy=[pool("heavy", wait=wait)])
        assert isinstance(step, Make)
        assert (step.stage, step.degraded) == (stage, stage == "light")
    for step in (first_stage(direct=True), second_stage()):
        assert isinstance(step, Make)
        assert step.start_by == pytest.approx(NOW + 0.45)
    assert second_stage(heavy=[pool("heavy", wait=0.5)]) == Accept(degraded=True)
    assert isinstance(second_stage(heavy=[pool("heavy", wait=0.5)], overload="strict"), Make)


def test_strict_leaves_time_for_the_second_stage_and_for_error() -> None:
    heavy = [pool("heavy", wait=1.0, execution=2.0)]

    def admitted(*, wait: float, escalates: bool) -> bool:
        light = [pool("light", wait=wait, execution=1.0)]
        step = first_stage(light=light, heavy=heavy, deadline=NOW + 9, overload="strict", escalates=escalates)
        return isinstance(step, Make)

    assert [admitted(wait=wait, escalates=False) for wait in (6.3, 6.5)] == [True, False]
    assert [admitted(wait=wait, escalates=True) for wait in (3.9, 4.1)] == [True, False]


def test_any_model_that_can_still_make_the_image_goes_before_a_refusal() -> None:
    step = first_stage(light=[pool("light", wait=2.0)])
    assert isinstance(step, Make)
    assert (step.stage, step.degraded) == ("heavy", False)
    step = first_stage(direct=True, light=[pool("light", wait=2.0)], heavy=[pool("heavy", wait=0.7)])
    assert isinstance(step, Make)
    assert step.stage == "heavy"
    assert isinstance(first_stage(light=[pool("light", wait=2.0)], overload="strict"), Refuse)


def test_where_nothing_stands_in_a_request_is_refused_at_once_rather_than_waiting_in_vain() -> None:
    late = [pool("light", wait=0.95, execution=0.01)]
    assert isinstance(first_stage(light=late, heavy=[pool("heavy", wait=0.85)]), Refuse)
    assert isinstance(first_stage(direct=True, light=late, heavy=[pool("heavy", wait=0.85)]), Refuse)
    # Nobody turns to the light model later that has no time now: the heavy one gets all the time.
    step = first_stage(direct=True, light=late)
    assert isinstance(step, Make)
    assert (step.stage, step.start_by) == ("heavy", pytest.approx(NOW + 0.9))
    refused = first_stage(light=[pool("light", wait=math.inf)], heavy=[pool("heavy", wait=math.inf)])
    assert isinstance(refused, Refuse)
    assert (refused.reason, "more urgent requests" in refused.message) == (Refusal.DEADLINE_UNREACHABLE, True)


def test_of_several_pools_the_one_that_finishes_first_is_taken() -> None:
    pools = [pool("slow", execution=0.5), pool("busy", wait=0.6), pool("best", wait=0.2), pool("gone", ready=0)]
    step = first_stage(light=pools)
    assert isinstance(step, Make)
    assert step.pool == "best.cpu"


@pytest.mark.parametrize(
    ("heavy", "reason", "retry_after_s"),
    [
        (pool("heavy", wait=2.0), Refusal.DEADLINE_UNREACHABLE, 2.0),
        (pool("heavy", execution=2.0), Refusal.DEADLINE_UNREACHABLE, None),
        (pool("heavy", waiting=10, wait=0.5), Refusal.QUEUE_FULL, 0.5),
        (pool("heavy", ready=0), Refusal.NO_REPLICA, 1.0),
    ],
)
def test_a_direct_prompt_that_heavy_cannot_serve_degrades_or_is_refused(
    heavy: Outlook, reason: Refusal, retry_after_s: float | None
) -> None:
    degraded = first_stage(direct=True, heavy=[heavy])
    assert isinstance(degraded, Make)
    assert (degraded.stage, degraded.degraded) == ("light", True)
    strict = first_stage(direct=True, heavy=[heavy], overload="strict")
    assert isinstance(strict, Refuse)
    assert (strict.reason, strict.retry_after_s) == (reason, retry_after_s)
    both = first_stage(direct=True, heavy=[heavy], light=[pool("light", execution=3.0)])
    assert isinstance(both, Refuse)
    assert both.reason is reason


def test_a_light_image_is_accepted_escalated_or_degraded() -> None:
    assert second_stage(escalate=False) == Accept()
    step = second_stage()
    assert isinstance(step, Make)
    assert step.stage == "heavy"
    assert second_stage(heavy=[pool("heavy", wait=2)]) == Accept(degraded=True)
    assert second_stage(heavy=[]) == Accept(degraded=True)
    strict = second_stage(heavy=[pool("heavy", wait=2)], overload="strict")
    assert isinstance(strict, Refuse)
    assert strict.reason is Refusal.DEADLINE_EXCEEDED


def test_a_light_image_stands_in_only_where_the_policy_and_the_prompt_allow() -> None:
    assert may_fall_back(Refusal.MODEL_FAILED, overload="degrade")
    assert not may_fall_back(Refusal.INVALID, overload="degrade")
    assert not may_fall_back(Refusal.DEADLINE_EXCEEDED, overload="strict")


def test_what_one_model_cannot_make_the_other_makes_where_it_still_can() -> None:
    def other(stage: Stage, **changes: Any) -> Make | None:
        given: dict[str, Any] = {"deadline": NOW + 1, "now": NOW, "overload": "degrade", "queue_limit": 10}
        return instead(stage, **{**given, **changes})

    heavy, light = [pool("heavy", wait=0.5, execution=0.4)], [pool("light")]
    assert other("light", others=heavy) == Make("heavy", "heavy.cpu", "heavy", pytest.approx(NOW + 0.6))  # type: ignore[arg-type]
    degraded = other("heavy", others=light)
    assert degraded is not None
    assert (degraded.stage, degraded.degraded) == ("light", True)
    assert other("light", others=heavy, deadline=NOW + 0.8) is None
    assert other("light", others=heavy, overload="strict") is None
    assert other("light", others=[pool("heavy", ready=0)]) is None
    assert other("light", others=[pool("heavy", waiting=10)]) is None


def test_a_prompt_that_may_kill_models_is_not_handed_on_to_the_heavy_ones() -> None:
    assert may_turn("light", Refusal.NO_REPLICA, overload="degrade")
    assert may_turn("heavy", Refusal.MODEL_FAILED, overload="degrade")
    assert not may_turn("light", Refusal.MODEL_FAILED, overload="degrade")
    assert not may_turn("light", Refusal.INVALID, overload="degrade")
    assert not may_turn("light", Refusal.NO_REPLICA, overload="strict")


def test_a_failure_is_tried_again_elsewhere_while_time_budget_and_replicas_last() -> None:
    def again(**changes: Any) -> Make | Refuse:
        given: dict[str, Any] = {
            "stage": "heavy",
            "attempts": 1,
            "outlooks": [pool("heavy")],
            "deadline": NOW + 1,
            "now": NOW,
            "retry_budget": 5.0,
        }
        return on_failure(**{**given, **changes})

    step = again()
    assert isinstance(step, Make)
    assert step.stage == "heavy"
    for changes, reason in (
        ({"attempts": MAX_ATTEMPTS}, Refusal.MODEL_FAILED),
        ({"retry_budget": 0.5}, Refusal.MODEL_FAILED),
        ({"outlooks": [pool("heavy", ready=0)]}, Refusal.NO_REPLICA),
        ({"outlooks": [pool("heavy", ready=0)], "retry_budget": 0.5}, Refusal.NO_REPLICA),
        ({"deadline": NOW + 0.05}, Refusal.DEADLINE_EXCEEDED),
    ):
        refusal = again(**changes)
        assert isinstance(refusal, Refuse)
        assert refusal.reason is reason
    # Whom no replica had is not what failed.
    assert isinstance(again(attempts=0, retry_budget=0.5), Make)


times = st.floats(0, 5)


def outlooks(*names: str) -> st.SearchStrategy[list[Outlook]]:
    """Pools with names of their own, as plans have them."""
    one = st.builds(
        pool,
        st.sampled_from(names),
        wait=times,
        execution=times,
        ready=st.integers(0, 2),
        waiting=st.integers(0, 12),
    )
    return st.lists(one, max_size=3, unique_by=lambda outlook: outlook.pool)


@given(st.booleans(), outlooks("a", "b", "c"), outlooks("d", "e", "f"), times, st.sampled_from(["degrade", "strict"]))
def test_nothing_is_begun_that_would_end_after_the_deadline(
    direct: bool, light: list[Outlook], heavy: list[Outlook], left: float, overload: str
) -> None:
    steps = [
        first_stage(direct=direct, light=light, heavy=heavy, deadline=NOW + left, overload=overload),
        second_stage(heavy=heavy, deadline=NOW + left, overload=overload),
    ]
    for step in steps:
        if isinstance(step, Make):
            chosen = next(o for o in light + heavy if o.pool == step.pool and o.finish(NOW) <= NOW + left)
            assert chosen.ready > 0
            assert chosen.waiting < 10
            assert NOW <= step.start_by <= NOW + left
        if overload == "strict" and isinstance(step, Make | Accept):
            assert not step.degraded


@pytest.mark.parametrize(
    ("left", "said"),
    [(-5.0, "it has passed"), (-1e-9, "it has passed"), (0.0, "it has passed"), (0.02, "0.020 s are left")],
)
def test_a_deadline_that_cannot_be_met_is_told_with_the_time_that_is_left(left: float, said: str) -> None:
    for step in (
        first_stage(direct=True, deadline=NOW + left, overload="strict"),
        second_stage(deadline=NOW + left, overload="strict"),
    ):
        assert isinstance(step, Refuse)
        assert f"deadline: {said}" in step.message
        assert "-" not in step.message


def test_execution_is_the_planned_one_until_enough_was_seen() -> None:
    estimates = ExecutionEstimates()
    for index in range(ENOUGH - 1):
        estimates.observe("p", 1 + index / 100)
    assert estimates.execution_s("p", planned=0.3) == 0.3
    estimates.observe("p", 9.0)
    assert 1.1 < estimates.execution_s("p", planned=0.3) < 1.2
    estimates.keep({"q"})
    assert estimates.execution_s("p", planned=0.3) == 0.3


def test_the_median_batch_is_that_by_what_was_planned_for_its_size() -> None:
    batches = LatestBatches()

    def median(*, now: float = NOW) -> BatchTime | None:
        return batches.median("p", planned_s=lambda images: 0.1 * images, now=now)

    for number in range(ENOUGH - 1):
        batches.observe(
            "p", BatchTime(images=1 + number % 2, seconds=(1 + number % 2) * (0.1 + number / 1000)), now=NOW
        )
    assert median() is None, "these are too few"
    batches.observe("p", BatchTime(images=8, seconds=0.8), now=NOW)
    found = median(now=NOW + 60)
    assert found is not None
    assert found.seconds / found.images == pytest.approx(0.107)
    assert median(now=NOW + 61) is None, "that is no news"
    batches.keep({"q"})
    assert median() is None


def test_retries_are_a_share_of_the_traffic() -> None:
    budget = RetryBudget()
    while budget.left >= 1:
        budget.spend()
    for _ in range(30):
        budget.earn()
    assert 2.9 < budget.left < 3.1
    for _ in range(1000):
        budget.earn()
    assert budget.left == CAPACITY

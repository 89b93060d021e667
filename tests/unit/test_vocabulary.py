"""Durations, names and the plan document: round trips and rules that every component leans on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Plan, is_credible, next_generation
from cascade_api.quantities import duration_s, format_duration
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import Condition, merge_conditions

PLAN = """{"schema": 2, "generation": 7, "cascade": "default/shapes", "issuedAt": "2026-11-21T10:00:00Z",
 "reason": "DemandRose", "objectiveS": 2, "attainment": 0.99, "overload": "degrade", "discriminator": "builtin://shapes",
 "sizes": ["32x32"], "someday": true,
 "variants": {"l": {"weights": "small", "settings": {"steps": 2},
                    "classes": {"cpu": {"batch": 2, "executionS": {"32x32": {"1": 0.002, "4": 0.008}}}}},
              "h": {"weights": "large", "settings": {"steps": 20, "guidance": "4.5"}, "classes": {}}},
 "rows": [{"share": 0.5, "chain": ["l", "h"], "direct": 0.2, "escalation": 0.5},
          {"share": 0.5, "chain": ["l", "h"], "direct": 0.0, "escalation": 0.0}],
 "workers": [{"id": "cpu-0", "endpoint": "127.0.0.1:9000", "class": "cpu", "state": "ready", "hosts": ["small"],
              "credits": {"l": 4}}],
 "expected": {"demand": 5, "latencyP99": 0.4, "quality": 0.9}}"""


@given(st.integers(min_value=0, max_value=10**9))
def test_durations_survive_the_round_trip_to_a_millisecond(millis: int) -> None:
    assert duration_s(format_duration(millis / 1000)) == pytest.approx(millis / 1000)


@pytest.mark.parametrize("text", ["", "5", "-5s", "1.5s", "5 s", "s", "1d", "1s "])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_s(text)


def test_all_keys_of_a_cascade_share_one_cluster_slot() -> None:
    ref = CascadeRef("media", "portraits")
    keys = [
        ref.plan_key,
        ref.demand_key,
        ref.queue_key("p"),
        ref.credits_key("p"),
        ref.leases_key("p"),
    ]
    assert all(key.startswith("cascade:{media/portraits}:") for key in keys)
    assert CascadeRef.parse(str(ref)) == ref
    assert pool_name(variant="l", accelerator_class="cpu") == "l.cpu"


@pytest.mark.parametrize("text", ["", "a", "a/", "/b", "a/b/c"])
def test_what_is_no_cascade_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="namespace/name"):
        CascadeRef.parse(text)


def test_a_plan_survives_the_round_trip_and_fields_of_newer_operators_are_ignored() -> None:
    plan = Plan.from_json(PLAN)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.planned_shares == pytest.approx({"direct": 0.1, "escalated": 0.2, "light": 0.7})
    assert plan.rows[0].heavy_share == pytest.approx(0.6)


def test_a_row_may_be_one_variant_that_every_prompt_goes_to() -> None:
    old = '"chain": ["l", "h"], "direct": 0.2, "escalation": 0.5'
    plan = Plan.from_json(PLAN.replace(old, '"chain": ["l"], "direct": 1, "escalation": 0'))
    row = plan.rows[0]
    assert (row.alone, row.first, row.heavy, row.heavy_share) == (True, "l", "l", 1)
    assert plan.planned_shares == pytest.approx({"direct": 0.5, "escalated": 0, "light": 0.5})


def test_a_pool_is_the_workers_that_serve_a_variant_on_a_class_and_a_draining_one_has_no_credits() -> None:
    (pool,) = Plan.from_json(PLAN).pools
    assert (pool.name, pool.variant, pool.accelerator_class, pool.batch) == ("l.cpu", "l", "cpu", 2)
    (worker,) = pool.ready
    assert (worker.id, worker.hosts, pool.credits(worker)) == ("cpu-0", ["small"], 4)
    for old, new in (('"state": "ready"', '"state": "draining"'), ('"credits": {"l": 4}', '"credits": {"l": 0}')):
        (pool,) = Plan.from_json(PLAN.replace(old, new)).pools
        assert pool.ready == []
        assert [pool.credits(worker) for worker in pool.workers] == [0]


def test_a_worker_may_serve_several_variants_of_the_weights_that_it_hosts() -> None:
    both = PLAN.replace('"weights": "large"', '"weights": "small"').replace('"l": 4}', '"l": 4, "h": 1}')
    both = both.replace('"classes": {}', '"classes": {"cpu": {"batch": 1, "executionS": {"32x32": {"1": 0.05}}}}')
    heavy, light = Plan.from_json(both).pools
    assert (heavy.name, light.name) == ("h.cpu", "l.cpu")
    assert heavy.workers == light.workers
    assert [pool.credits(worker) for pool in (heavy, light) for worker in pool.workers] == [1, 4]


def test_batch_times_between_measured_sizes_are_interpolated_and_beyond_them_extended() -> None:
    (pool,) = Plan.from_json(PLAN).pools
    assert pool.batch_execution_s(1) == pytest.approx(0.002)
    assert pool.batch_execution_s(2) == pytest.approx(0.004)
    assert pool.batch_execution_s(8) == pytest.approx(0.016)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows": [{"share": 0.5', '"rows": [{"share": 0.4'),
        ('"chain": ["l", "h"], "direct": 0.2', '"chain": [], "direct": 0.2'),
        ('"chain": ["l", "h"], "direct": 0.2', '"chain": ["l", "l"], "direct": 0.2'),
        ('"chain": ["l", "h"], "direct": 0.2', '"chain": ["l"], "direct": 0.2'),
        ('"batch": 2', '"batch": 0'),
        ('"direct": 0.2', '"direct": 1.2'),
        ("127.0.0.1:9000", "nowhere"),
        ('"1": 0.002', '"1": -0.002'),
        ('"4": 0.008', '"4": 1e999'),
        ('"sizes": ["32x32"]', '"sizes": ["0x32"]'),
        ('"sizes": ["32x32"]', '"sizes": ["64x64"]'),
        ('"hosts": ["small"]', '"hosts": ["large"]'),
        ('"credits": {"l": 4}', '"credits": {"h": 4}'),
        ('"credits": {"l": 4}', '"credits": {"other": 4}'),
        ('"credits": {"l": 4}', '"credits": {"l": -1}'),
        ('"schema": 2', '"schema": 1'),
        ('"cpu-0"', '"cpu|0"'),
        ('"objectiveS": 2', '"objectiveS": NaN'),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(old: str, new: str) -> None:
    with pytest.raises(ValidationError):
        Plan.from_json(PLAN.replace(old, new))


@given(st.floats(min_value=0, max_value=1e10), st.integers(min_value=0, max_value=10**14))
def test_generations_only_grow(now_s: float, last: int) -> None:
    following = next_generation(now_s=now_s, last=last)
    assert is_credible(following, now_s=now_s)
    assert following > last or not is_credible(last, now_s=now_s)


def test_a_generation_that_no_clock_can_have_given_is_not_followed_by_a_higher_one() -> None:
    assert not is_credible(2**63, now_s=1_700_000_000)
    assert next_generation(now_s=1_700_000_000, last=2**63) == 1_700_000_000_000


@pytest.mark.parametrize(
    ("old", "new", "servable"),
    [
        ("", "", True),
        ('"state": "ready"', '"state": "draining"', True),
        ('"chain": ["l", "h"], "direct": 0.0', '"chain": ["l", "h"], "direct": 1.0', False),
        ('"chain": ["l", "h"], "direct": 0.0', '"chain": ["nobody", "h"], "direct": 0.0', False),
        ('"credits": {"l": 4}', '"credits": {}', False),
        ('"someday": true', '"parked": true', True),
    ],
)
def test_a_plan_without_a_replica_where_prompts_begin_cannot_serve_them(old: str, new: str, servable: bool) -> None:
    assert (Plan.from_json(PLAN.replace(old, new)).why_unservable is None) == servable


def test_a_parked_plan_serves_whoever_asks_and_has_nothing_yet() -> None:
    plan = Plan.from_json(PLAN).model_copy(update={"workers": []})
    assert plan.why_unservable == "rows[0]: no worker serves 'l'"
    assert plan.model_copy(update={"parked": True}).why_unservable is None


def test_a_condition_keeps_its_transition_time_until_its_status_changes() -> None:
    ready = Condition(type=ConditionType.READY, status="True", reason=Reason.AS_PLANNED)
    (first,) = merge_conditions([], [ready], now="t1")
    (same,) = merge_conditions([first], [ready.model_copy(update={"reason": Reason.STEADY})], now="t2")
    assert same.last_transition_time == "t1"
    (changed,) = merge_conditions([same], [ready.model_copy(update={"status": "False"})], now="t3")
    assert changed.last_transition_time == "t3"

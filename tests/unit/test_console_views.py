"""What people are told of a cascade: sentences about decisions, what is remembered, and the figures of the moment."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_api.console import DECISIONS, SAMPLES, CascadeView
from cascade_api.explanations import why
from cascade_api.plan import Plan
from cascade_api.report import RouterReport
from cascade_router.console import views
from cascade_router.console.views import Seen
from cascade_router.past import Past
from cascade_router.queue import PoolLoad
from support.plans import make_worker

LOAD = PoolLoad(waiting=3, in_flight=2, expected_wait_s=0.5)


FLOORED = {
    "demand": 10, "latencyP99": 2.5, "quality": 0.93, "floor": {"noWorseThan": 0.9, "held": True}, "costPerHour": "8",
}  # fmt: skip


def plan(
    *, direct: float = 0.2, escalation: float = 0.25, demand: float = 10, workers: int = 2, **changes: Any
) -> Plan:
    """One row over `light` (0.1 s) and `heavy` (1 s), on workers that host both."""
    weights = {"light": "small", "heavy": "large"}
    hosts = [
        {
            **make_worker(f"gpu-{n}", "light", endpoint="a:1", credits=4, on="gpu"),
            "hosts": list(weights.values()),
            "credits": {"light": 4, "heavy": 2},
        }
        for n in range(workers)
    ]
    seconds = {"light": 0.1, "heavy": 1.0}
    document = {
        "generation": 1, "cascade": "team/portraits", "issuedAt": "2026-11-20T10:00:00Z", "reason": "DemandRose",
        "objectiveS": 4, "attainment": 0.99, "overload": "degrade", "sizes": ["512x512"],
        "variants": {
            name: {"weights": weights[name], "settings": {"steps": 4},
                   "classes": {"gpu": {"batch": 1, "executionS": {"512x512": {"1": seconds[name]}}}}}
            for name in weights
        },
        "rows": [{"share": 1, "chain": ["light", "heavy"], "direct": direct, "escalation": escalation}],
        "workers": hosts,
        "expected": {"demand": demand, "latencyP99": 2.5, "quality": 0.93, "costPerHour": "8"},
    }  # fmt: skip
    return Plan.model_validate(document | changes)


def report(router: str = "r1", **changes: Any) -> RouterReport:
    figures = {
        "received": 90, "routes": {"light": 60, "escalated": 20, "degraded": 10}, "violations": 4,
        "refusals": {"QueueFull": 2}, "recentRoutes": {"light": 6, "direct": 2, "escalated": 2},
        "latencyP50S": 0.4, "latencyP99S": 2.0, "confidence": {"light": [0.1, 0.5, 0.9]},
    }  # fmt: skip
    return RouterReport.model_validate({"router": router, "atMs": 1, "planGeneration": 1} | figures | changes)


def see(plan: Plan, *reports: RouterReport, past: Past | None = None, since_ms: int = 0) -> CascadeView:
    if past is None:
        past = Past()
        past.follow(plan, at_ms=5)
    seen = Seen(demand=9.0, reports=reports, in_use={"heavy.gpu": {"gpu-1": 2}, "light.gpu": {"gpu-1": 3}})
    return views.view("portraits", plan, seen, past, lambda queue: LOAD, ejected={"gpu-0"}, since_ms=since_ms)


@pytest.mark.parametrize(
    ("now", "before", "sentence"),
    [
        (
            plan(demand=20, direct=0, escalation=0.1), plan(demand=10, direct=0.2, escalation=0.25),
            "More is asked for, 20.0 images a second instead of 10.0: light makes 90% of the images instead of 60%, "
            "heavy makes 10% of the images instead of 40%.",
        ),
        (
            plan(reason="InitialPlan"), None,
            "No earlier plan was found, so this is the first: light makes 60% of the images, heavy makes 40% of",
        ),
        (
            plan(reason="InitialPlan"), plan(reason="InitialPlan", workers=1),
            "Workers that were wanted at the start came or went: light makes 60% of the images",
        ),
        (plan(reason="ReplicasChanged", workers=1), plan(), "there are 1 workers instead of 2"),
        (
            plan(reason="SharesAdjusted", demand=12, direct=0.1), plan(demand=10, direct=0.2),
            "More is asked for, 12.0 images a second instead of 10.0, which leaves less time for each image: ",
        ),
        (
            plan(reason="SharesAdjusted", demand=8, direct=0.3), plan(demand=10, direct=0.2),
            "Less is asked for, 8.0 images a second instead of 10.0, which leaves more time for each image: ",
        ),
        (
            plan(reason="SharesAdjusted", demand=8, direct=0.1), plan(demand=10, direct=0.2),
            "At this demand, queues and other cascades on the workers leave less time for each image: ",
        ),
        (
            plan(reason="SharesAdjusted", direct=0.3), plan(direct=0.2),
            "At this demand, shorter queues or other cascades on the workers leave more time for each image: ",
        ),
        (
            plan(reason="DemandFell", demand=12), plan(demand=10),
            "More is asked for, 12.0 images a second instead of 10.0: ",
        ),
        (
            plan(reason="DemandFell", demand=10), plan(demand=10),
            "No more is asked for than when workers were last decided on, 10.0 images a second: ",
        ),
        (plan(reason="Parked", parked=True), plan(), "the cascade is parked, and wakes at the next request."),
        (plan(), None, "Expected are a quality of 0.93, and 99% of the images within 2.5 s, of 4 s allowed."),
        (plan(expected=FLOORED), None, "a quality of 0.93 (no worse than 0.9: held), and 99%"),
    ],
)  # fmt: skip
def test_a_decision_is_told_in_a_sentence(now: Plan, before: Plan | None, sentence: str) -> None:
    assert sentence in why(now, before)


def test_shares_of_images_and_of_calls_are_those_of_the_row() -> None:
    assert plan().image_shares == pytest.approx({"light": 0.6, "heavy": 0.4})
    assert plan().call_shares == pytest.approx({"light": 0.8, "heavy": 0.4})


def test_small_changes_are_no_decisions_but_the_plan_in_force_is_told_beside_the_last_one() -> None:
    past = Past()
    past.follow(plan(), at_ms=1)
    past.follow(plan(generation=2, direct=0.21), at_ms=2)
    past.follow(plan(generation=3, direct=0.6), at_ms=3)
    assert [(each.generation, each.at_ms) for each in past.decisions(since_ms=0)] == [(1, 1), (3, 3)]
    assert [each.generation for each in past.decisions(since_ms=1)] == [3]
    past.follow(plan(generation=4, direct=0.62), at_ms=4)
    assert past.in_force is not None
    assert past.in_force.generation == 4
    assert "instead of" in past.in_force.why


def test_the_past_is_bounded_and_what_is_new_can_be_asked_for() -> None:
    past = Past()
    for number in range(SAMPLES + 5):
        past.follow(plan(generation=number + 1, direct=number % 2), at_ms=number)
        past.sample(
            lambda violations, at=number: views.sample(
                plan(), Seen(1.0, [], {}), lambda queue: LOAD, at_ms=at, violations=violations
            ),
            violations=10 * number,
        )
    assert len(past.decisions(since_ms=-1)) == DECISIONS
    samples = past.samples(since_ms=0)
    assert len(samples) == SAMPLES
    assert {each.violations for each in samples} == {10}
    assert [each.at_ms for each in past.samples(since_ms=SAMPLES + 2)] == [SAMPLES + 3, SAMPLES + 4]


def test_counts_that_fall_with_a_router_are_no_violations() -> None:
    past = Past()
    for total in (50, 20, 23):
        past.sample(
            lambda violations: views.sample(
                plan(), Seen(1.0, [], {}), lambda queue: LOAD, at_ms=1, violations=violations
            ),
            violations=total,
        )
    assert [each.violations for each in past.samples(since_ms=0)] == [0, 0, 3]


def test_figures_are_of_all_routers_together() -> None:
    busy = report("r2", recentRoutes={"direct": 30}, latencyP99S=4.0, latencyP50S=1.4)
    seen = see(plan(), report(), busy)
    assert seen.routers == 2
    assert (seen.answered, seen.degraded, seen.violations, seen.refusals) == (180, 20, 8, {"QueueFull": 4})
    assert seen.realised_shares == pytest.approx({"light": 6 / 40, "direct": 32 / 40, "escalated": 2 / 40})
    assert seen.latency_p99_s == pytest.approx((2.0 * 10 + 4.0 * 30) / 40)
    assert seen.confidence == {"light": 0.5}


def test_work_is_compared_with_an_all_heavy_cascade() -> None:
    assert see(plan()).work.model_dump() == pytest.approx({"planned": 10 * (0.8 * 0.1 + 0.4 * 1.0), "all_heavy": 10.0})


def test_workers_say_what_they_host_and_have() -> None:
    first, second = see(plan()).workers
    assert (first.id, first.trusted, first.hosts) == ("gpu-0", False, ["heavy", "light"])
    assert second.trusted
    assert second.in_use == {"heavy": 2, "light": 3}
    assert second.credits == {"light": 4, "heavy": 2}


def test_variants_that_share_a_queue_are_one() -> None:
    document = plan().model_dump(by_alias=True)
    document["variants"]["light"]["classes"]["gpu"]["queue"] = "heavy"
    [queue] = see(Plan.model_validate(document)).queues
    assert (queue.name, sorted(queue.variants), queue.waiting) == ("heavy.gpu", ["heavy", "light"], 3)


def test_nobody_answered_yet() -> None:
    seen = see(plan())
    assert (seen.latency_p99_s, seen.realised_shares, seen.confidence) == (None, {}, {})

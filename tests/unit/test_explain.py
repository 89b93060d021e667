"""The text of `cascade explain`: what runs and why, which limits apply, and what is wrong."""

from __future__ import annotations

from cascade_api.names import CascadeRef
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import CascadeStatus, Condition, PoolStatus, QualityStatus
from cascade_operator.explain import Explained, as_data, as_text
from support.plans import make_plan

REF = CascadeRef("media", "portraits")


def condition(kind: ConditionType, truth: str, reason: Reason, message: str) -> Condition:
    return Condition.model_validate({"type": kind, "status": truth, "reason": reason, "message": message})


STATUS = CascadeStatus(
    conditions=[
        condition(ConditionType.READY, "True", Reason.AS_PLANNED, "every stage has a ready replica"),
        condition(
            ConditionType.ALLOCATION_OPTIMAL, "False", Reason.QUALITY_SHED, "all 8 test-gpu accelerators are in use"
        ),
        condition(ConditionType.PROGRESSING, "False", Reason.AS_PLANNED, "pools are as planned"),
        condition(ConditionType.ROUTER_AVAILABLE, "False", Reason.ROUTER_AWAY, "no router has reported"),
    ],
    chain=["turbo", "large"],
    direct_percent=20,
    escalated_percent=10,
    pools=[
        PoolStatus(name="turbo.test-gpu", variant="turbo", accelerator_class="test-gpu", desired=3, ready=2, batch=4)
    ],
    plan_generation=7,
    plan_reason=Reason.DEMAND_ROSE,
    cost_per_hour="3.00",
    quality=QualityStatus(
        no_worse_than="24.5", expected="24.4", held=True, all_heavy_workers=9, all_heavy_cost_per_hour="9.00"
    ),
)


def test_everything_that_matters_is_said_and_what_is_well_is_not() -> None:
    text = as_text(Explained(REF, STATUS, make_plan(), [("2026-01-01T00:00:00Z", "DemandRose", "more replicas")]))
    for part in (
        "media/portraits: Ready=True (AsPlanned)",
        "turbo → large: of all prompts 20 % go direct, 10 % escalate",
        "DemandRose (plan 7), 3.00 per hour",
        "turbo.test-gpu: 2 of 3 ready, batch 4",
        "all 8 test-gpu accelerators are in use (QualityShed)",
        "RouterAvailable=False (RouterAway): no router has reported",
        "2026-01-01T00:00:00Z DemandRose: more replicas",
        "floor     no worse than 24.5: held, 24.4 expected; all-heavy would take 9 workers, 9.00 per hour",
        "expects",
    ):
        assert part in text
    assert "Progressing" not in text


def test_without_a_status_there_is_no_operator() -> None:
    assert "no operator has seen it yet" in as_text(Explained(REF, None, None, []))
    assert as_data(Explained(REF, STATUS, make_plan(), []))["cascade"] == "media/portraits"

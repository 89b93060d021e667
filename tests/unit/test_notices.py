"""Notices to users: each important change is told once, in the words of conditions and plans."""

from __future__ import annotations

import asyncio
from typing import Any

from cascade_api.names import CascadeRef
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import CascadeStatus, Condition
from cascade_operator.clusters import ClusterFailed
from cascade_operator.notices import Notice, Notices, notice_of_plan, notices_of_status
from cascade_operator.refusals import status_of_refused
from cascade_operator.sources import Refused
from support.plans import make_plan

REF = CascadeRef("default", "shapes")


def status(kind: ConditionType, truth: str, reason: Reason, message: str = "") -> CascadeStatus:
    condition = {"type": kind, "status": truth, "reason": reason, "message": message}
    return CascadeStatus(conditions=[Condition.model_validate(condition)])


def told(before: CascadeStatus | None, after: CascadeStatus) -> list[Notice]:
    return list(notices_of_status(before, after))


def test_a_condition_that_turns_bad_is_a_warning_and_its_return_is_told_too() -> None:
    good = status(ConditionType.ACCEPTED, "True", Reason.VALID, "fine")
    bad = status(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, "spec.x: wrong")
    assert told(good, bad) == [Notice("Warning", "InvalidSpec", "spec.x: wrong")]
    assert told(bad, bad) == []
    assert told(bad, good) == [Notice("Normal", "Valid", "Accepted: fine")]


def test_the_ordinary_course_of_things_is_not_told() -> None:
    starting = status(ConditionType.READY, "False", Reason.REPLICAS_STARTING)
    ready = status(ConditionType.READY, "True", Reason.AS_PLANNED)
    assert told(None, starting) == []
    assert told(starting, ready) == []


def test_new_pools_are_told_and_adjusted_shares_are_not() -> None:
    plan = make_plan()
    first = notice_of_plan(plan, None)
    assert first is not None
    assert first.reason == str(plan.reason)
    assert not first.message.startswith("plan:")
    assert notice_of_plan(plan, plan) is None
    assert notice_of_plan(plan.model_copy(update={"reason": Reason.SHARES_ADJUSTED}), None) is None


class FakeApi:
    """Takes Events, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.created: list[dict[str, Any]] = []
        self.away = away

    async def create(self, resource: object, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.away:
            raise ClusterFailed("away")
        self.created.append(manifest)
        return manifest


async def test_the_same_words_are_said_once_a_minute() -> None:
    now = 1000.0
    api = FakeApi()
    notices = Notices(api, uid_of=lambda ref: "u", clock=lambda: now)  # type: ignore[arg-type]
    for _ in range(3):
        notices.post(REF, Notice("Warning", "LoadShed", "too much"))
    now += 61
    notices.post(REF, Notice("Warning", "LoadShed", "too much"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [event["reason"] for event in api.created] == ["LoadShed", "LoadShed"]
    event = api.created[0]
    assert event["involvedObject"]["uid"] == "u"
    assert event["metadata"]["namespace"] == "default"


async def test_an_api_server_that_is_away_holds_nothing_up() -> None:
    notices = Notices(FakeApi(away=True), uid_of=lambda ref: "")  # type: ignore[arg-type]
    notices.post(REF, Notice("Normal", "DemandRose", "more"))
    await asyncio.sleep(0)


def test_what_was_never_valid_says_which_field_and_keeps_its_transition_times() -> None:
    refused = Refused(REF, 3, (Reason.INVALID_SPEC, "spec.objective.latency: is required: add it"))
    first = status_of_refused(refused, before=None, now=0)
    again = status_of_refused(refused, before=first, now=100)
    assert again == first
    truths = {c.type: c.status for c in first.conditions}
    assert truths[ConditionType.ACCEPTED] == truths[ConditionType.READY] == "False"
    assert truths[ConditionType.PROGRESSING] == "Unknown"
    assert {c.observed_generation for c in first.conditions} == {3}

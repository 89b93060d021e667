"""A quality floor on the local stack: it is held with less work than the best quality takes, and tiers are served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from cascade_api.documents import load_cascades
from cascade_api.local import read_addresses
from cascade_api.plan import Plan
from cascade_operator.whatif import decide_for
from support.local_run import HUNG_S, LocalRun, running
from support.patience import Document, patient_documents
from support.waiting import wait_for

pytestmark = [pytest.mark.contract, pytest.mark.slow]
FLOOR = 0.9


def documents(**objective: Any) -> list[Document]:
    """A cascade on two workers that host both variants; all images by the heavy one are best."""
    found = patient_documents(light_ms=240, heavy_ms=880, objective={"latency": "8s", **objective})
    for document in found:
        for pool in document["spec"].get("workers", ()):
            pool |= {"hosting": "shared", "min": pool["max"]}
        for row in document["spec"].get("quality", ()):
            if row["directPercent"] == 100:
                row["valuesMilli"]["q2"] = 999
    return found


@pytest.fixture(scope="module")
def floored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    manifest = yaml.safe_dump_all(documents(quality={"noWorseThan": f"{FLOOR}"}))
    with running(tmp_path_factory.mktemp("floor"), manifest=manifest) as run:
        yield run


def plan_in_force(run: LocalRun) -> Plan | None:
    """The plan, once it holds the floor on all workers."""
    cascades = run.look().get("cascades") or [{}]
    if not cascades[0].get("plan"):
        return None
    plan = Plan.model_validate(cascades[0]["plan"])
    held = plan.expected.floor is not None and plan.expected.floor.held
    return plan if held and len(plan.tiers) == 2 and len(plan.workers) == 2 else None


def heavy_share(plan: Plan) -> float:
    return sum(row.share * row.heavy_share for row in plan.rows)


def made(run: LocalRun, quality: str) -> tuple[str, str]:
    """Route and variant of an image of this quality."""
    addresses = read_addresses(run.state.path)
    assert addresses is not None
    body = {"model": "shapes", "prompt": "a small red circle", "quality": quality, "deadline_ms": 60_000}
    answer = httpx.post(f"http://{addresses.http}/v1/images/generations", json=body, timeout=HUNG_S)
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["data"]
    return image["route"], image["variant"]


def test_a_floor_takes_less_work_than_the_best_quality(floored: LocalRun) -> None:
    plan = wait_for(lambda: plan_in_force(floored), what="the floor to be held")
    assert plan.expected.quality == pytest.approx(FLOOR, abs=0.01)
    free = load_cascades(yaml.safe_dump_all(documents()), source="free.yaml")
    (best,) = decide_for(free, demand=plan.expected.demand, source="free.yaml")
    assert best.plan is not None
    assert heavy_share(plan) < 0.5 < heavy_share(best.plan)


def test_low_is_made_by_the_light_variant_and_high_by_the_best_row(floored: LocalRun) -> None:
    plan = wait_for(lambda: plan_in_force(floored), what="the plan to have tiers")
    assert (plan.tiers["low"].first, plan.tiers["high"].first) == ("shapes-light", "shapes-heavy")
    assert {made(floored, "low") for _ in range(5)} == {("light", "shapes-light")}
    assert {made(floored, "high") for _ in range(5)} == {("direct", "shapes-heavy")}

"""The operator is alive while its planner runs, ready once it has seen all objects, and reports what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from cascade_api.command import CommandFailed
from cascade_api.names import CascadeRef
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import CascadeStatus, Condition
from cascade_operator import metrics
from cascade_operator.health import STALE_S, ProcessHealth
from support.plans import make_plan
from support.ports import free_port
from support.waiting import PATIENCE_S


@dataclass
class World:
    """A health endpoint, with a clock that the test sets."""

    now: float = 1000.0
    turned_s: float = 1000.0
    missing: str | None = None
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    def __post_init__(self) -> None:
        self.health = ProcessHealth(turned_s=lambda: self.turned_s, ready=lambda: self.missing, clock=lambda: self.now)

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            return await client.get(f"http://{self.address}{path}")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    found = World()
    await found.health.start(found.address)
    yield found
    await found.health.stop()


async def test_it_is_alive_while_the_planner_turns(world: World) -> None:
    assert (await world.get("/healthz")).status_code == 200
    world.now += STALE_S + 1
    stale = await world.get("/healthz")
    assert stale.status_code == 503
    assert "has made no decision for 61 s" in stale.text


async def test_it_is_ready_once_everything_was_seen(world: World) -> None:
    world.missing = "the cluster's resources have not been read yet"
    assert (await world.get("/readyz")).status_code == 503
    world.missing = None
    assert (await world.get("/readyz")).status_code == 200


async def test_metrics_show_the_plan_and_conditions_and_forget_what_is_gone(world: World) -> None:
    ref = CascadeRef("test-metrics", "portraits")
    condition = {"type": ConditionType.READY, "status": "True", "reason": Reason.AS_PLANNED}
    metrics.show_plan(make_plan().model_copy(update={"cascade": str(ref)}))
    metrics.record_status(ref, CascadeStatus(conditions=[Condition.model_validate(condition)]))
    text = (await world.get("/metrics")).text
    labels = 'cascade="test-metrics/portraits",reason="AsPlanned",status="True",type="Ready"'
    assert f"cascade_operator_condition{{{labels}}} 1.0" in text
    assert 'cascade_operator_planned_share{cascade="test-metrics/portraits",route="direct"}' in text
    metrics.forget(ref)
    assert str(ref) not in (await world.get("/metrics")).text


async def test_an_address_that_is_taken_is_one_clear_message(world: World) -> None:
    with pytest.raises(CommandFailed, match="CASCADE_OPERATOR_HEALTH_ADDRESS: cannot listen"):
        await World(address=world.address).health.start(world.address)

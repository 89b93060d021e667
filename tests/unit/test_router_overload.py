"""What overload does: what is less urgent is refused first, and the urgent still get in."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.reasons import Refusal
from cascade_router.queue import PoolLoad, limit_of
from cascade_router.requests import BANDS, Refused
from support.engine import ask, cascade, endpoints, replicas
from support.router import make_plan
from support.scripted_triton import hang
from support.waiting import eventually


@given(limit=st.integers(1, 10_000), band=st.integers(0, 6))
def test_the_more_urgent_find_at_least_as_many_places(limit: int, band: int) -> None:
    assert 1 <= limit_of(limit, band=band + 1) <= limit_of(limit, band=band)
    assert limit_of(limit, band=0) > limit == limit_of(limit, band=1)


def test_an_entry_waits_for_what_is_as_urgent_as_itself_and_no_more() -> None:
    load = PoolLoad(waiting=9, in_flight=1, expected_wait_s=10.0, ahead=(1, 4))
    assert [load.wait_s(band) for band in (0, 1, 2, 7)] == pytest.approx([2.0, 5.0, 10.0, 10.0])
    assert PoolLoad(waiting=0, in_flight=1, expected_wait_s=1.5, ahead=(0, 0)).wait_s(0) == 1.5


async def test_under_overload_low_goes_first_and_high_still_gets_in() -> None:
    async with replicas(hang()) as servers:
        plan = make_plan({"shapes-light": endpoints(*servers)}, direct=0, escalation=0, batch=1)
        async with cascade(plan) as runtime:
            (pool,) = plan.pools
            waiting: list[asyncio.Future[object]] = []

            async def begins(band: str) -> bool:
                """Whether a request is let in; then it waits for ever."""
                before = runtime.queue.load(pool.name)
                asked = asyncio.ensure_future(ask(runtime, band=BANDS[band]))
                waiting.append(asked)
                return (
                    await eventually(
                        lambda: "out" if asked.done() else "in" if runtime.queue.load(pool.name) != before else None,
                        what="to be let in or refused",
                    )
                    == "in"
                )

            assert await begins("normal")  # on the replica
            assert [await begins("low") for _ in range(6)] == [True] * 5 + [False]
            assert [await begins("normal") for _ in range(6)] == [True] * 5 + [False]
            assert [await begins("high") for _ in range(2)] == [True, False]
            refused = [asked.exception() for asked in waiting if asked.done()]
            assert [error.reason for error in refused if isinstance(error, Refused)] == [Refusal.QUEUE_FULL] * 3
            for asked in waiting:
                asked.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_wait_that_is_too_long_for_normal_priority_is_not_for_a_high_one() -> None:
    async with replicas(hang()) as servers:
        slow = {"shapes-light": 100.0}
        plan = make_plan(
            {"shapes-light": endpoints(*servers)}, direct=0, escalation=0, batch=1, execution_s=slow, objectiveS=6000
        )
        async with cascade(plan) as runtime:
            (pool,) = plan.pools
            waiting = [asyncio.ensure_future(ask(runtime)) for _ in range(8)]
            await eventually(lambda: runtime.queue.load(pool.name).waiting == 7, what="seven waiting")
            with pytest.raises(Refused) as late:
                await ask(runtime, deadline_s=500.0)
            assert late.value.reason is Refusal.DEADLINE_UNREACHABLE
            assert late.value.retry_after_s is not None
            urgent = asyncio.ensure_future(ask(runtime, deadline_s=500.0, band=BANDS["high"]))
            await eventually(lambda: runtime.queue.load(pool.name).waiting == 8, what="the urgent one waiting")
            assert runtime.queue.load(pool.name).ahead == (1, 8)
            for asked in (*waiting, urgent):
                asked.cancel()
            await asyncio.gather(*waiting, urgent, return_exceptions=True)

"""Overload: less urgent requests are refused first, and urgent ones are still admitted."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.reasons import Refusal
from cascade_router.cascade.decisions import Outlook, Refuse, admit
from cascade_router.queue import PoolLoad, limit_of
from cascade_router.queue.dispatch import Dispatcher
from cascade_router.queue.loads import LATELY, Loads
from cascade_router.queue.operations import (
    EnqueueTicket,
    Operation,
    QueueTiming,
    ReleaseCredit,
    ReplicaSpec,
    Sync,
    TicketGranted,
    Withdraw,
    ticket_of,
)
from cascade_router.requests import BANDS, RequestRefused
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


def test_what_is_more_urgent_and_comes_meanwhile_is_served_first_too() -> None:
    load = PoolLoad(waiting=9, in_flight=1, expected_wait_s=10.0, ahead=(1, 4), taken=(0.5, 0.9))
    assert [load.wait_s(band) for band in (0, 1, 2, 7)] == pytest.approx([2.0, 10.0, 100.0, 100.0])
    assert load._replace(taken=(1.0, 1.2)).wait_s(1) == math.inf
    assert load._replace(waiting=0, taken=(1.0, 1.0)).wait_s(1) == 10.0


def test_the_time_that_the_urgent_take_is_told_by_how_often_they_come_here() -> None:
    loads = Loads()
    loads.heard({"p": PoolLoad(waiting=9, in_flight=1, expected_wait_s=10.0, ahead=(0, 9))})  # a second a grant

    def come(count: int, *, every_s: float, band: int) -> None:
        for index in range(count):
            loads.asked("p", "t", band=band, now=index * every_s)
        loads.replied("p", "t")

    come(1, every_s=0, band=1)
    assert loads.of("p", now=0.0, routers=1).taken == (0.0, 1 / LATELY)
    come(LATELY, every_s=2.0, band=0)
    half = LATELY / (2.0 * LATELY)
    assert loads.of("p", now=2.0 * LATELY, routers=1).taken[0] == pytest.approx(half)
    assert loads.of("p", now=2.0 * LATELY, routers=2).taken[0] == pytest.approx(2 * half)
    assert loads.of("p", now=4.0 * LATELY, routers=1).taken[0] == pytest.approx(half / 2)


async def test_under_overload_low_goes_first_and_high_still_gets_in() -> None:
    async with replicas(hang()) as servers:
        plan = make_plan({"shapes-light": endpoints(*servers)}, direct=0, escalation=0, batch=1)
        async with cascade(plan) as runtime:
            (pool,) = plan.pools
            waiting: list[asyncio.Future[object]] = []

            async def begins(band: str) -> bool:
                """Whether a request is let in; then it waits for ever."""
                before = runtime.queue.load(pool.name)[:2]
                asked = asyncio.ensure_future(ask(runtime, band=BANDS[band]))
                waiting.append(asked)
                return (
                    await eventually(
                        lambda: (
                            "out" if asked.done() else "in" if runtime.queue.load(pool.name)[:2] != before else None
                        ),
                        what="to be let in or refused",
                    )
                    == "in"
                )

            assert await begins("normal")  # on the replica
            assert [await begins("low") for _ in range(6)] == [True] * 5 + [False]
            assert [await begins("normal") for _ in range(6)] == [True] * 5 + [False]
            assert [await begins("high") for _ in range(2)] == [True, False]
            refused = [asked.exception() for asked in waiting if asked.done()]
            assert [error.reason for error in refused if isinstance(error, RequestRefused)] == [Refusal.QUEUE_FULL] * 3
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
            with pytest.raises(RequestRefused) as late:
                await ask(runtime, within_s=500.0)
            assert late.value.reason is Refusal.DEADLINE_UNREACHABLE
            assert late.value.retry_after_s is not None
            urgent = asyncio.ensure_future(ask(runtime, within_s=500.0, band=BANDS["high"]))
            await eventually(lambda: runtime.queue.load(pool.name).waiting == 8, what="the urgent one waiting")
            assert runtime.queue.load(pool.name).ahead == (1, 8)
            for asked in (*waiting, urgent):
                asked.cancel()
            await asyncio.gather(*waiting, urgent, return_exceptions=True)


@pytest.mark.parametrize("bands", [("normal",), ("high", "normal", "low")])
@pytest.mark.parametrize("times", [2, 9])
def test_far_more_than_can_be_made_is_refused_at_once_and_not_at_the_deadline(
    times: int, bands: tuple[str, ...]
) -> None:
    refused, in_vain, made = _simulate(rate=times * 60.0, seconds=30.0, bands=[BANDS[band] for band in bands])
    assert made >= 0.9 * 60.0 * 30.0
    assert in_vain <= 0.01 * refused


def _simulate(*, rate: float, seconds: float, bands: list[int]) -> tuple[int, int, int]:
    """Three replicas of 50 ms with a deadline of 6 s, in simulated time: refused, those that waited first, and made."""
    router, pool, service_ms, deadline_ms = "router-1", "light.cpu", 50, 6000
    dispatcher, loads = Dispatcher(QueueTiming(hold_ms=0, lease_ms=10**9, dead_ms=10**9)), Loads()
    replicas = tuple(ReplicaSpec(f"r{number}", "", 1, service_ms / 1000) for number in range(3))
    loads.heard(dispatcher.run(Sync(router, pool, 1, "least-wait", replicas), now=0).loads)
    waiting: dict[str, tuple[int, int]] = {}
    ends: dict[int, list[TicketGranted]] = defaultdict(list)
    refused = in_vain = made = arrived = 0
    for now in range(int(seconds * 1000)):
        operations: list[Operation] = [
            ReleaseCredit(router, pool, grant.ticket, grant.replica_id, service_ms / 1000, 1)
            for grant in ends.pop(now, ())
        ]
        made += len(operations)
        gone = [ticket for ticket, (_, start_by) in waiting.items() if start_by <= now]
        operations += [Withdraw(router, pool, ticket) for ticket in gone]
        refused, in_vain = refused + len(gone), in_vain + len(gone)
        for ticket in gone:
            del waiting[ticket]
        while arrived < rate * now / 1000:
            band, ticket = bands[arrived % len(bands)], ticket_of("e", arrived, router)
            arrived += 1
            load = loads.of(pool, now=now / 1000, routers=1)
            step = admit(
                direct=False,
                light=[Outlook(pool, "light", 3, load.waiting, load.wait_s(band), service_ms / 1000)],
                heavy=(),
                deadline=(now + deadline_ms) / 1000,
                now=now / 1000,
                overload="degrade",
                queue_limit=1000,
            )
            if isinstance(step, Refuse):
                refused += 1
                continue
            start_by = round(step.start_by * 1000)
            waiting[ticket] = (now, start_by)
            loads.asked(pool, ticket, band=band, now=now / 1000)
            operations.append(EnqueueTicket(router, pool, ticket, band, start_by - now, 1000))
        for operation in operations:
            outcome = dispatcher.run(operation, now=now)
            loads.heard(outcome.loads)
            if isinstance(operation, EnqueueTicket):
                loads.replied(pool, operation.ticket)
            for dropped in outcome.drops:
                del waiting[dropped.ticket]
                refused, in_vain = refused + 1, in_vain + 1
            for grant in outcome.grants:
                del waiting[grant.ticket]
                ends[now + service_ms].append(grant)
    return refused, in_vain, made

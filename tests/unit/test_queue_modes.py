"""Where operations of the queue go: they use the router's own share, or are kept until Redis may get them."""

from __future__ import annotations

from cascade_router.queue.modes import Alone, Returning
from cascade_router.queue.operations import (
    EnqueueTicket,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    ReplicaSpec,
    Sync,
    Verdict,
    ticket_of,
)
from cascade_router.queue.redis_queue import RedisQueue
from support.plans import LIGHT, REF

SPECS = (ReplicaSpec("r1", "host:1", 3, 1.0),)


def enqueue(number: int) -> EnqueueTicket:
    return EnqueueTicket("a", LIGHT, ticket_of("e", number, "a"), 1, 60_000, 100)


def release(number: int) -> ReleaseCredit:
    return ReleaseCredit("a", LIGHT, ticket_of("e", number, "a"), "r1", 0.1, 1)


def test_alone_carries_out_at_once_on_this_routers_share() -> None:
    heard: list[OperationResult] = []
    alone = Alone("a", routers=("a", "b"), timing=QueueTiming(), clock=lambda: 100.0)
    alone.submit(Sync("a", LIGHT, 1, "least-wait", SPECS), heard.append)
    for number in range(4):
        alone.submit(enqueue(number), heard.append)
    assert [len(outcome.grants) for outcome in heard] == [0, 1, 1, 0, 0], "two of the three credits"
    assert {outcome.verdict for outcome in heard} == {Verdict.DONE}
    assert alone.redis is None


async def test_returning_remembers_releases_and_nothing_else() -> None:
    redis = RedisQueue(
        url="redis://127.0.0.1:1",
        ref=REF,
        router_id="a",
        timing=QueueTiming(),
        timeout_s=1.0,
        on_message=lambda message: None,
        on_subscribed=lambda: None,
        on_failure=lambda reason: None,
    )
    heard: list[OperationResult] = []
    returning = Returning(redis, "a", routers=("a",), clock=lambda: 100.0)
    for operation in (enqueue(0), release(1), ReleaseAndEnqueue(release(2), enqueue(3)), Reap("a", LIGHT)):
        returning.submit(operation, heard.append)
    assert returning.releases == [release(1), release(2)]
    assert (heard, returning.redis) == ([], None)
    await redis.close()

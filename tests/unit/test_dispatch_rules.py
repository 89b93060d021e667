"""What the dispatcher grants, to whom and when; times are plain numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cascade_router.queue.dispatch import Dispatcher
from cascade_router.queue.operations import (
    UNIT,
    DropCause,
    EnqueueTicket,
    Heartbeat,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    ReplicaSpec,
    Restore,
    Spread,
    Sync,
    Verdict,
    Withdraw,
    ticket_of,
)

POOL, OTHER = "heavy.cpu", "light.cpu"


def sync(*specs: ReplicaSpec, pool: str = POOL, generation: int = 1, spread: Spread = "least-wait") -> Sync:
    return Sync("a", pool, generation, spread, specs)


def spec(name: str = "r1", capacity: int = 1, service_s: float = 1.0) -> ReplicaSpec:
    return ReplicaSpec(name, f"{name}:8001", capacity, service_s)


def enqueue(
    ticket: str, *, band: int = 1, within_ms: int = 10_000, limit: int = 100, pool: str = POOL
) -> EnqueueTicket:
    owner = ticket.rpartition("@")[2]
    return EnqueueTicket(owner, pool, ticket, band, within_ms, limit)


def release(ticket: str, *, on: str = "r1", service_s: float | None = None, sharing: int = UNIT) -> ReleaseCredit:
    return ReleaseCredit(ticket.rpartition("@")[2], POOL, ticket, on, service_s, sharing)


def granted(outcome: OperationResult) -> list[tuple[str, str]]:
    return [(grant.ticket, grant.replica_id) for grant in outcome.grants]


def dropped(outcome: OperationResult) -> list[tuple[str, DropCause]]:
    return [(drop.ticket, drop.cause) for drop in outcome.drops]


@pytest.fixture
def one_credit() -> Dispatcher:
    """One replica with one credit, which ``first@a`` holds."""
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec()), now=0)
    dispatcher.run(enqueue("first@a"), now=0)
    return dispatcher


def test_a_free_credit_is_granted_at_once() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec()), now=0)
    outcome = dispatcher.run(enqueue("x@a"), now=5)
    assert granted(outcome) == [("x@a", "r1")]
    assert outcome.grants[0].endpoint == "r1:8001"


def test_the_most_urgent_band_goes_first_then_the_earliest_deadline(one_credit: Dispatcher) -> None:
    for ticket, band, within_ms in [("late@a", 1, 900), ("soon@a", 1, 300), ("urgent@a", 0, 2_000)]:
        assert granted(one_credit.run(enqueue(ticket, band=band, within_ms=within_ms), now=0)) == []
    order = []
    holder = "first@a"
    for _ in range(3):
        [(holder, _replica)] = granted(one_credit.run(release(holder), now=10))
        order.append(holder)
    assert order == ["urgent@a", "soon@a", "late@a"]


def test_the_replica_with_the_least_expected_wait_is_chosen() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("slow", 4, 3.0), spec("fast", 4, 1.0)), now=0)
    chosen = [granted(dispatcher.run(enqueue(f"{n}@a"), now=0))[0][1] for n in range(5)]
    assert chosen == ["fast", "fast", "fast", "slow", "fast"]


def test_equal_waits_are_settled_by_replica_id() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r2", 1), spec("r10", 1)), now=0)
    assert granted(dispatcher.run(enqueue("x@a"), now=0)) == [("x@a", "r10")]


def test_random_spread_uses_every_replica_about_equally() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(*(spec(f"r{n}", 1000, 1.0 + n) for n in range(3)), spread="random"), now=0)
    for n in range(900):
        dispatcher.run(enqueue(f"{n}@a"), now=0)
    used = [replica.used for replica in dispatcher.pools[POOL].replicas.values()]
    assert sum(used) == 900
    assert min(used) > 230


def test_service_seconds_follow_what_releases_report() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1", 1, 1.0)), now=0)
    for n in range(40):
        dispatcher.run(enqueue(f"{n}@a"), now=n)
        dispatcher.run(release(f"{n}@a", service_s=0.5), now=n)
    assert dispatcher.pools[POOL].replicas["r1"].service_s == pytest.approx(0.5, rel=1e-3)


def test_service_of_requests_that_share_a_replica_is_shared_out() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1", 4, 1.0)), now=0)
    for turn in range(60):
        tickets = [f"{turn}-{n}@a" for n in range(4)]
        sharing = {t: dispatcher.run(enqueue(t), now=turn).grants[0].sharing for t in tickets}
        for ticket in tickets:
            dispatcher.run(release(ticket, service_s=2.0, sharing=sharing[ticket]), now=turn)
    # a batch of four takes 2 s: half a second each, somewhat more while the batch forms and dissolves
    assert 0.5 <= dispatcher.pools[POOL].replicas["r1"].service_s <= 0.7


def test_work_is_counted_by_size() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1", 2, 1.0), spec("r2", 2, 1.5)), now=0)
    large, small, next_one = (ticket_of("e", n, "a", work=work) for n, work in enumerate((2.25, 0.25, 1.0)))
    assert granted(dispatcher.run(enqueue(large), now=0)) == [(large, "r1")]
    assert granted(dispatcher.run(enqueue(small), now=0)) == [(small, "r2")], "r1 has 2.25 s of work"
    assert granted(dispatcher.run(enqueue(next_one), now=0)) == [(next_one, "r2")]
    # an image of 2.25 times the work that took 2.25 s alone tells of a second for one of the default size
    dispatcher.run(release(large, service_s=2.25, sharing=2250), now=0)
    assert dispatcher.pools[POOL].replicas["r1"].service_s == 1.0


def test_the_expected_wait_counts_the_work_that_waits(one_credit: Dispatcher) -> None:
    waits = []
    for work in (2.25, 0.25):
        outcome = one_credit.run(enqueue(ticket_of("e", 1, "a", work=work)), now=0)
        waits.append(outcome.loads[POOL].expected_wait_s)
        one_credit.run(Withdraw("a", POOL, ticket_of("e", 1, "a", work=work)), now=0)
    # what waits, and a turn of the mean work of what waits and is in flight
    assert waits == [pytest.approx(2.25 + (2.25 + 1) / 2), pytest.approx(0.25 + (0.25 + 1) / 2)]


def test_a_full_queue_refuses_and_says_how_long_it_would_take(one_credit: Dispatcher) -> None:
    for n in range(3):
        one_credit.run(enqueue(f"{n}@a", limit=3), now=0)
    outcome = one_credit.run(enqueue("x@a", limit=3), now=0)
    assert outcome.verdict is Verdict.FULL
    assert outcome.loads[POOL].waiting == 3
    assert outcome.loads[POOL].expected_wait_s == pytest.approx(4.0)


def test_no_ready_replica_refuses() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1", 0)), now=0)
    assert dispatcher.run(enqueue("x@a"), now=0).verdict is Verdict.NO_REPLICA


def test_an_unknown_pool_or_router_is_told_so() -> None:
    dispatcher = Dispatcher()
    assert dispatcher.run(enqueue("x@a"), now=0).verdict is Verdict.UNKNOWN
    dispatcher.run(sync(spec()), now=0)
    assert dispatcher.run(enqueue("x@b"), now=0).verdict is Verdict.UNKNOWN


def test_an_entry_past_its_deadline_is_dropped_rather_than_granted(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("hasty@a", within_ms=100), now=0)
    one_credit.run(enqueue("patient@a", within_ms=5_000), now=0)
    outcome = one_credit.run(release("first@a"), now=100)
    assert dropped(outcome) == [("hasty@a", DropCause.EXPIRED)]
    assert granted(outcome) == [("patient@a", "r1")]


def test_a_drained_replica_gets_nothing_and_its_credits_stay_counted() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1", 2), spec("r2", 1, 9.0)), now=0)
    dispatcher.run(enqueue("one@a"), now=0)
    dispatcher.run(sync(spec("r1", 0), spec("r2", 1, 9.0), generation=2), now=0)
    assert granted(dispatcher.run(enqueue("two@a"), now=0)) == [("two@a", "r2")]
    assert dispatcher.pools[POOL].load.in_flight == 2
    dispatcher.run(enqueue("three@a"), now=0)
    assert granted(dispatcher.run(release("one@a"), now=0)) == []
    assert dispatcher.pools[POOL].load.in_flight == 1


def test_a_replica_left_out_is_forgotten_once_it_is_empty() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1"), spec("r2", 1, 9.0)), now=0)
    dispatcher.run(enqueue("one@a"), now=0)
    dispatcher.run(sync(spec("r2"), generation=2), now=0)
    assert set(dispatcher.pools[POOL].replicas) == {"r1", "r2"}
    dispatcher.run(release("one@a"), now=0)
    dispatcher.run(sync(spec("r2"), generation=3), now=0)
    assert set(dispatcher.pools[POOL].replicas) == {"r2"}


def test_an_older_plan_changes_nothing() -> None:
    dispatcher = Dispatcher()
    dispatcher.run(sync(spec("r1", 3), generation=7), now=0)
    dispatcher.run(sync(spec("r2", 1), generation=6), now=0)
    assert set(dispatcher.pools[POOL].replicas) == {"r1"}


def test_losing_the_last_replica_drops_all_that_wait(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a"), now=0)
    outcome = one_credit.run(sync(generation=2), now=0)
    assert dropped(outcome) == [("x@a", DropCause.NO_REPLICA)]


def test_a_larger_batch_frees_credits_at_once(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a"), now=0)
    assert granted(one_credit.run(sync(spec("r1", 2), generation=2), now=0)) == [("x@a", "r1")]


def test_an_exchange_frees_one_pool_and_enters_the_other(one_credit: Dispatcher) -> None:
    one_credit.run(sync(spec("r9"), pool=OTHER), now=0)
    one_credit.run(enqueue("next@a"), now=0)
    outcome = one_credit.run(ReleaseAndEnqueue(release("first@a"), enqueue("first2@a", pool=OTHER)), now=1)
    assert granted(outcome) == [("next@a", "r1"), ("first2@a", "r9")]
    assert set(outcome.loads) == {POOL, OTHER}


def test_an_exchange_that_is_refused_has_released_all_the_same(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("next@a"), now=0)
    outcome = one_credit.run(ReleaseAndEnqueue(release("first@a"), enqueue("first2@a", pool=OTHER)), now=1)
    assert outcome.verdict is Verdict.UNKNOWN
    assert granted(outcome) == [("next@a", "r1")]


def test_a_second_release_of_the_same_grant_does_nothing(one_credit: Dispatcher) -> None:
    for _ in range(2):
        one_credit.run(release("first@a"), now=1)
    assert one_credit.pools[POOL].replicas["r1"].used == 0


def test_a_replica_that_failed_is_given_a_rest(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a"), now=0)
    assert granted(one_credit.run(replace(release("first@a"), failed=True), now=1)) == []
    assert granted(one_credit.run(Reap("a", POOL), now=1_000)) == []
    assert granted(one_credit.run(Reap("a", POOL), now=1_001)) == [("x@a", "r1")]


def test_withdrawing_takes_out_of_the_queue(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a"), now=0)
    one_credit.run(Withdraw("a", POOL, "x@a"), now=0)
    assert granted(one_credit.run(release("first@a"), now=1)) == []


def test_withdrawing_what_was_granted_meanwhile_gives_the_credit_on(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a"), now=0)
    assert granted(one_credit.run(Withdraw("a", POOL, "first@a"), now=0)) == [("x@a", "r1")]


def test_a_lease_that_nobody_renews_gives_its_credit_back(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a", within_ms=60_000), now=0)
    assert granted(one_credit.run(Reap("a", POOL), now=4_999)) == []
    assert granted(one_credit.run(Reap("a", POOL), now=5_000)) == [("x@a", "r1")]


def test_a_heartbeat_renews_leases(one_credit: Dispatcher) -> None:
    one_credit.run(Heartbeat("a", POOL, (("first@a", "r1"),), ()), now=4_000)
    one_credit.run(enqueue("x@a"), now=4_000)
    assert granted(one_credit.run(Reap("a", POOL), now=8_999)) == []
    assert granted(one_credit.run(Reap("a", POOL), now=9_000)) == [("x@a", "r1")]


def test_a_heartbeat_tells_what_was_granted_and_what_is_unknown(one_credit: Dispatcher) -> None:
    one_credit.run(enqueue("x@a"), now=0)
    beat = Heartbeat("a", POOL, (("gone@a", "r1"),), ("first@a", "x@a", "never@a"))
    outcome = one_credit.run(beat, now=0)
    assert granted(outcome) == [("first@a", "r1")]
    assert outcome.missing == ("gone@a", "never@a")
    assert outcome.routers == ("a",)


def test_entries_of_a_dead_router_are_dropped_and_never_granted(one_credit: Dispatcher) -> None:
    one_credit.run(replace(sync(spec()), router="b"), now=0)
    one_credit.run(enqueue("orphan@b", band=0, within_ms=60_000), now=0)
    one_credit.run(enqueue("x@a", within_ms=60_000), now=0)
    one_credit.run(Heartbeat("a", POOL, (("first@a", "r1"),), ("x@a",)), now=5_001)
    outcome = one_credit.run(release("first@a"), now=5_001)
    assert dropped(outcome) == [("orphan@b", DropCause.DEAD_ROUTER)]
    assert granted(outcome) == [("x@a", "r1")]


def test_what_is_restored_counts_even_beyond_the_capacity(one_credit: Dispatcher) -> None:
    leases = (("lost@a", "r1"), ("other@a", "r7"))
    for _ in range(2):
        one_credit.run(Restore("a", POOL, leases), now=0)
    assert {name: r.used for name, r in one_credit.pools[POOL].replicas.items()} == {"r1": 2, "r7": 1}
    one_credit.run(enqueue("x@a"), now=0)
    assert granted(one_credit.run(release("first@a"), now=0)) == []
    assert granted(one_credit.run(release("lost@a"), now=0)) == [("x@a", "r1")]


@pytest.mark.parametrize(("waiting", "expected_s"), [(0, 0.0), (1, 0.0), (2, 0.5), (5, 2.0)])
def test_expected_wait_counts_entries_beyond_the_free_credits(waiting: int, expected_s: float) -> None:
    dispatcher = Dispatcher(QueueTiming(hold_ms=1_000))
    dispatcher.run(sync(spec("r1", 1, 1.0), spec("r2", 1, 1.0)), now=0)
    pool = dispatcher.pools[POOL]
    for n in range(waiting):
        pool.put((1, 10_000, f"{n}@a"))
    assert pool.load.expected_wait_s == pytest.approx(expected_s)


def test_expected_wait_without_a_replica_is_infinite() -> None:
    dispatcher = Dispatcher()
    assert dispatcher.run(sync(), now=0).loads[POOL].expected_wait_s == float("inf")

"""Steps from what workers host to what they should, each safe by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cascade_api.names import CascadeRef
from cascade_operator.planning.allocation import HostSet
from cascade_operator.planning.memory import Leaving
from cascade_operator.planning.moves import Moves, next_moves
from cascade_operator.snapshot import (
    DrainWorker,
    HostState,
    Load,
    PoolRef,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
)
from support.factories import make_worker

REF = CascadeRef("default", "shapes")
POOL = PoolRef("default", "cpu", "shapes")


def hosts(*weights: str) -> HostSet:
    return HostSet.of(weights, "cpu")


A, B, C = hosts("a"), hosts("b"), hosts("c")
AB, AC, BC = hosts("a", "b"), hosts("a", "c"), hosts("b", "c")


def moves(
    workers: Sequence[Worker],
    target: Mapping[HostSet, int],
    *,
    leaving: Collection[Leaving] = (),
    free: int = 0,
    left: Collection[str] = (),
    room: int = 1,
    now: float = 100.0,
    at_once: int = 1,
) -> Moves:
    """The next steps where a worker has room for so many weights."""

    def in_flight(worker: Worker, weights: Collection[str]) -> int | None:
        used = worker.in_flight
        return None if used is None else sum(used.get((REF, name), 0) for name in weights)

    return next_moves(
        workers=workers,
        target=target,
        leaving=leaving,
        free={"cpu": free},
        left={(digest, "cpu") for digest in left},
        pools={"cpu": POOL},
        order=["a", "b", "c", "d"],
        fits=lambda each: len(each.weights) <= room,
        in_flight=in_flight,
        now=now,
        grace_s=2.0,
        at_once=at_once,
    )


def left_at(found: Moves) -> dict[tuple[str, str], float]:
    return {(each.worker, each.weights): each.since_s for each in found.leaving}


# --- workers with room for one weights


def test_on_free_accelerators_everything_starts_at_once() -> None:
    found = moves([], {A: 1, B: 1}, free=2)
    assert set(found.actions) == {StartWorker(POOL, "cpu", ("a",)), StartWorker(POOL, "cpu", ("b",))}
    assert found.moving


def test_nothing_is_done_where_everything_is_as_wanted() -> None:
    assert moves([make_worker("cpu-0", "a"), make_worker("cpu-1", "b")], {A: 1, B: 1}) == Moves()


def test_starting_workers_count_and_are_not_started_twice() -> None:
    assert moves([make_worker("cpu-0", "a", state="starting")], {A: 1}, free=1).actions == ()


def test_a_worker_that_is_loading_counts_for_what_it_loads() -> None:
    loading = make_worker("cpu-0", hosting={"a": HostState.LOADING})
    assert moves([loading], {A: 1}, free=1) == Moves()


def test_without_a_free_accelerator_one_worker_leaves_its_weights_and_the_idlest_first() -> None:
    workers = [make_worker("cpu-0", "a", in_flight=4), make_worker("cpu-1", "a", in_flight=1)]
    found = moves(workers, {A: 1, B: 1})
    assert left_at(found) == {("cpu-1", "a"): 100.0}
    assert found.actions == ()


def test_what_was_left_is_unloaded_when_its_requests_ended_and_the_next_weights_are_loaded() -> None:
    workers = [make_worker("cpu-0", "a"), make_worker("cpu-1", "a", in_flight=3)]
    leaving = [Leaving("cpu-1", "a", 99.0)]
    found = moves(workers, {A: 1, B: 1}, leaving=leaving)
    assert found.actions == ()
    assert left_at(found) == {("cpu-1", "a"): 99.0}
    workers[1] = make_worker("cpu-1", "a", in_flight=0)
    found = moves(workers, {A: 1, B: 1}, leaving=leaving)
    assert found.actions == (Unload("cpu-1", "a"), Load("cpu-1", "b"))
    # It gets no credits for them until they are seen to be gone.
    assert left_at(found) == {("cpu-1", "a"): 99.0}


def test_requests_are_waited_for_one_objective_also_where_they_are_not_known() -> None:
    for in_flight in (3, None):
        workers = [make_worker("cpu-0", "a"), make_worker("cpu-1", "a", in_flight=in_flight)]
        leaving = [Leaving("cpu-1", "a", 99.0)]
        assert moves(workers, {A: 1, B: 1}, leaving=leaving).actions == ()
        late = moves(workers, {A: 1, B: 1}, leaving=leaving, now=101.5)
        assert late.actions == (Unload("cpu-1", "a"), Load("cpu-1", "b"))


def test_only_one_worker_is_out_of_service_at_a_time() -> None:
    workers = [make_worker(f"cpu-{i}", "a") for i in range(3)]
    workers.append(make_worker("cpu-3", "b", state="starting"))
    found = moves(workers, {A: 1, B: 3})
    assert (found.actions, found.leaving) == ((), ())


def test_the_last_host_is_not_left_before_the_rows_did_without() -> None:
    workers = [make_worker("cpu-0", "a"), make_worker("cpu-1", "b")]
    before = moves(workers, {A: 2})
    assert (before.actions, before.leaving) == ((), ())
    assert before.vacate == ("b", "cpu")
    after = moves(workers, {A: 2}, left={"b"})
    assert left_at(after) == {("cpu-1", "b"): 100.0}
    assert after.vacate is None


def test_with_a_free_accelerator_the_old_worker_goes_only_when_the_new_one_is_ready() -> None:
    old = make_worker("cpu-0", "a")
    assert moves([old], {B: 1}, free=1, left={"a"}).actions == (StartWorker(POOL, "cpu", ("b",)),)
    starting = make_worker("cpu-1", "b", state="starting")
    assert moves([old, starting], {B: 1}, left={"a"}).actions == ()
    ready = make_worker("cpu-1", "b")
    assert moves([old, ready], {B: 1}, left={"a"}).actions == (DrainWorker("cpu-0"),)


def test_scaling_down_drains_and_then_stops() -> None:
    workers = [make_worker("cpu-0", "a"), make_worker("cpu-1", "a")]
    assert moves(workers, {A: 1}).actions == (DrainWorker("cpu-0"),)
    busy = [make_worker("cpu-0", "a", state="draining", in_flight=1, since_s=99.0), workers[1]]
    assert moves(busy, {A: 1}).actions == ()
    drained = [make_worker("cpu-0", "a", state="draining"), workers[1]]
    assert moves(drained, {A: 1}).actions == (StopWorker("cpu-0"),)


def test_a_failed_worker_is_told_again_what_to_host() -> None:
    workers = [make_worker("cpu-0", "a", state="failed"), make_worker("cpu-1", "b")]
    assert moves(workers, {A: 1, B: 1}).actions == (Load("cpu-0", "a"),)


def test_a_failed_worker_that_is_not_wanted_is_used_for_what_is_or_stopped() -> None:
    workers = [make_worker("cpu-0", "a", state="failed"), make_worker("cpu-1", "a")]
    assert moves(workers, {A: 1, B: 1}).actions == (Unload("cpu-0", "a"), Load("cpu-0", "b"))
    assert moves(workers, {A: 1}).actions == (StopWorker("cpu-0"),)


def test_a_target_that_changes_back_calls_weights_and_workers_back() -> None:
    workers = [make_worker("cpu-0", "a"), make_worker("cpu-1", "a", in_flight=2)]
    found = moves(workers, {A: 2}, leaving=[Leaving("cpu-1", "a", 99.0)])
    assert (found.actions, found.leaving) == ((), ())
    drained = [make_worker("cpu-0", "a"), make_worker("cpu-1", "a", state="draining")]
    assert moves(drained, {A: 2}).actions == (Load("cpu-1", "a"),)


def test_the_same_situation_gives_the_same_steps() -> None:
    workers = [make_worker("cpu-0", "a"), make_worker("cpu-1", "a")]
    assert moves(workers, {A: 1, B: 1}) == moves(list(reversed(workers)), {A: 1, B: 1})


def test_several_workers_move_at_once_but_never_the_last_host() -> None:
    workers = [make_worker(f"cpu-{number}", "a") for number in range(5)]
    for at_once, count in ((1, 1), (3, 3), (9, 4)):
        assert len(moves(workers, {B: 5}, at_once=at_once).leaving) == count
    assert len(moves(workers, {B: 5}, at_once=9, left={"a"}).leaving) == 5


def test_workers_under_way_already_count_among_those_that_may_be() -> None:
    workers = [make_worker(f"cpu-{number}", "a") for number in range(4)]
    busy = [make_worker(f"cpu-{number}", "a", in_flight=2) for number in (4, 5)]
    leaving = [Leaving(worker.id, "a", 99.5) for worker in busy]
    found = moves([*workers, *busy], {A: 1, B: 5}, leaving=leaving, at_once=3)
    assert len(found.leaving) == 3


def test_weights_that_nobody_hosts_get_their_first_worker_before_others_their_second() -> None:
    workers = [make_worker("cpu-0", "b"), make_worker("cpu-1", "a"), make_worker("cpu-2", "a")]
    leaving = [Leaving("cpu-1", "a", 99.0), Leaving("cpu-2", "a", 99.0)]
    found = moves(workers, {B: 5, C: 1}, leaving=leaving, left={"a"})
    assert [a.weights for a in found.actions if isinstance(a, Load)] == ["c", "b"]
    free = moves(workers[:1], {B: 5, C: 1}, free=1)
    assert [a.weights for a in free.actions if isinstance(a, StartWorker)] == [("c",)]


# --- workers with room for several weights


def test_where_there_is_room_new_weights_are_loaded_before_others_are_left() -> None:
    found = moves([make_worker("cpu-0", "a")], {B: 1}, room=2)
    assert found.actions == (Load("cpu-0", "b"),)
    assert found.leaving == ()
    loading = make_worker("cpu-0", hosting={"a": HostState.READY, "b": HostState.LOADING})
    assert moves([loading], {B: 1}, room=2, left={"a"}) == Moves(moving=True)
    ready = make_worker("cpu-0", "a", "b")
    assert left_at(moves([ready], {B: 1}, room=2, left={"a"})) == {("cpu-0", "a"): 100.0}


def test_in_a_full_worker_only_the_weights_that_go_are_left() -> None:
    workers = [make_worker("cpu-0", "a", "b"), make_worker("cpu-1", "a", "b")]
    found = moves(workers, {AB: 1, AC: 1}, room=2)
    assert found.actions == ()
    assert left_at(found) == {("cpu-0", "b"): 100.0}
    found = moves(workers, {AB: 1, AC: 1}, room=2, leaving=[Leaving("cpu-0", "b", 99.0)])
    assert found.actions == (Unload("cpu-0", "b"), Load("cpu-0", "c"))


def test_the_worker_that_keeps_most_takes_the_new_set() -> None:
    workers = [make_worker("cpu-0", "a", "b"), make_worker("cpu-1", "b", "c"), make_worker("cpu-2", "b", "c")]
    found = moves(workers, {AB: 1, BC: 1, hosts("c", "d"): 1}, room=2)
    assert left_at(found) == {("cpu-1", "b"): 100.0}


def test_weights_that_go_elsewhere_are_not_left_before_they_are_ready_there() -> None:
    workers = [make_worker("cpu-0", "a", "b"), make_worker("cpu-1", "a", "c"), make_worker("cpu-2", "a", "c")]
    found = moves(workers, {AC: 2, BC: 1}, room=2, at_once=2)
    # Here b has its only host in cpu-0, which may leave a only; it then hosts b and c.
    assert left_at(found) == {("cpu-0", "a"): 100.0}
    assert found.vacate is None


def test_where_nothing_else_is_possible_rows_do_without_some_weights_for_a_while() -> None:
    workers = [make_worker("cpu-0", "a", "b"), make_worker("cpu-1", "c", "d")]
    found = moves(workers, {AC: 1, hosts("b", "d"): 1}, room=2)
    assert (found.actions, found.leaving) == ((), ())
    assert found.vacate == ("b", "cpu")


def test_a_worker_whose_new_weights_nobody_wants_any_more_is_left_with_what_it_has() -> None:
    workers = [make_worker("cpu-0", "a", "b"), make_worker("cpu-1", "a", "b", in_flight=1)]
    found = moves(workers, {AB: 2}, room=2, leaving=[Leaving("cpu-0", "b", 99.0)])
    assert (found.actions, found.leaving) == ((), ())


def test_one_failed_host_does_not_take_the_others_of_its_worker_away() -> None:
    broken = make_worker("cpu-0", hosting={"a": HostState.READY, "b": HostState.FAILED})
    found = moves([broken, make_worker("cpu-1", "a", "b")], {AB: 2}, room=2)
    assert Load("cpu-0", "b") in found.actions
    assert not any(isinstance(action, Unload | DrainWorker | StopWorker) for action in found.actions)

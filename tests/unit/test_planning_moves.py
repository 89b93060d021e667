"""Moves from the running to the wanted state; each step is safe by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cascade_api.names import CascadeRef
from cascade_operator.planning.allocation.problem import PoolKey
from cascade_operator.planning.moves import Moves, next_moves
from cascade_operator.snapshot import Drain, Replica, Start, Stop
from support.factories import make_replica

REF = CascadeRef("default", "shapes")
LIGHT, HEAVY = ("light", "cpu"), ("heavy", "cpu")


def moves(
    replicas: Sequence[Replica],
    target: Mapping[PoolKey, int],
    *,
    free: int = 0,
    left: Collection[PoolKey] = (),
    now: float = 100.0,
    at_once: int = 1,
) -> Moves:
    return next_moves(
        REF, replicas=replicas, target=target, free={"cpu": free}, left=left, now=now, grace_s=2.0, at_once=at_once
    )


def test_on_free_accelerators_everything_starts_at_once() -> None:
    found = moves([], {LIGHT: 1, HEAVY: 1}, free=2)
    assert set(found.actions) == {Start(REF, None, "cpu", "light"), Start(REF, None, "cpu", "heavy")}
    assert found.moving


def test_nothing_is_done_where_everything_is_as_wanted() -> None:
    found = moves([make_replica("cpu-0", "light"), make_replica("cpu-1", "heavy")], {LIGHT: 1, HEAVY: 1})
    assert found == Moves((), None, moving=False)


def test_starting_replicas_count_and_are_not_started_twice() -> None:
    found = moves([make_replica("cpu-0", "light", "starting")], {LIGHT: 1}, free=1)
    assert found.actions == ()


def test_without_a_free_accelerator_one_replica_is_drained_and_the_idlest_first() -> None:
    replicas = [make_replica("cpu-0", "light", in_flight=4), make_replica("cpu-1", "light", in_flight=1)]
    found = moves(replicas, {LIGHT: 1, HEAVY: 1})
    assert found.actions == (Drain(REF, "cpu-1"),)


def test_a_drained_replica_starts_its_successor_in_place() -> None:
    replicas = [make_replica("cpu-0", "light"), make_replica("cpu-1", "light", "draining", in_flight=0)]
    found = moves(replicas, {LIGHT: 1, HEAVY: 1})
    assert found.actions == (Start(REF, "cpu-1", "cpu", "heavy"),)


def test_a_draining_replica_is_waited_for_one_objective() -> None:
    busy = make_replica("cpu-1", "light", "draining", in_flight=3, since_s=99.0)
    assert moves([make_replica("cpu-0"), busy], {LIGHT: 1, HEAVY: 1}).actions == ()
    assert moves([make_replica("cpu-0"), busy], {LIGHT: 1, HEAVY: 1}, now=101.5).actions == (
        Start(REF, "cpu-1", "cpu", "heavy"),
    )


def test_unknown_work_in_flight_is_not_taken_for_none() -> None:
    unknown = make_replica("cpu-1", "light", "draining", in_flight=None, since_s=99.5)
    assert moves([make_replica("cpu-0"), unknown], {LIGHT: 1, HEAVY: 1}).actions == ()


def test_only_one_replica_is_out_of_service_at_a_time() -> None:
    replicas = [make_replica(f"cpu-{i}", "light") for i in range(3)]
    replicas.append(make_replica("cpu-3", "heavy", "starting"))
    assert moves(replicas, {LIGHT: 1, HEAVY: 3}).actions == ()


def test_the_last_ready_replica_of_a_pool_is_not_drained_before_the_rows_left_it() -> None:
    replicas = [make_replica("cpu-0", "light"), make_replica("cpu-1", "heavy")]
    before = moves(replicas, {LIGHT: 2})
    assert before.actions == ()
    assert before.vacate == HEAVY
    after = moves(replicas, {LIGHT: 2}, left={HEAVY})
    assert after.actions == (Drain(REF, "cpu-1"),)
    assert after.vacate is None


def test_with_a_free_accelerator_the_old_replica_goes_only_when_the_new_one_is_ready() -> None:
    light = make_replica("cpu-0", "light")
    assert moves([light], {HEAVY: 1}, free=1, left={LIGHT}).actions == (Start(REF, None, "cpu", "heavy"),)
    starting = make_replica("cpu-1", "heavy", "starting")
    assert moves([light, starting], {HEAVY: 1}, left={LIGHT}).actions == ()
    ready = make_replica("cpu-1", "heavy")
    assert moves([light, ready], {HEAVY: 1}, left={LIGHT}).actions == (Drain(REF, "cpu-0"),)


def test_scaling_down_drains_and_then_stops() -> None:
    replicas = [make_replica("cpu-0", "light"), make_replica("cpu-1", "light")]
    assert moves(replicas, {LIGHT: 1}).actions == (Drain(REF, "cpu-0"),)
    drained = [make_replica("cpu-0", "light", "draining", in_flight=0), make_replica("cpu-1", "light")]
    assert moves(drained, {LIGHT: 1}).actions == (Stop(REF, "cpu-0"),)


def test_a_failed_replica_is_started_again_in_place() -> None:
    replicas = [make_replica("cpu-0", "light", "failed"), make_replica("cpu-1", "heavy")]
    assert moves(replicas, {LIGHT: 1, HEAVY: 1}).actions == (Start(REF, "cpu-0", "cpu", "light"),)


def test_a_failed_replica_that_is_not_wanted_is_used_for_what_is_or_stopped() -> None:
    replicas = [make_replica("cpu-0", "light", "failed"), make_replica("cpu-1", "light")]
    assert moves(replicas, {LIGHT: 1, HEAVY: 1}).actions == (Start(REF, "cpu-0", "cpu", "heavy"),)
    assert moves(replicas, {LIGHT: 1}).actions == (Stop(REF, "cpu-0"),)


def test_a_target_that_changes_back_reuses_the_draining_replica() -> None:
    replicas = [make_replica("cpu-0", "light"), make_replica("cpu-1", "light", "draining", in_flight=0)]
    assert moves(replicas, {LIGHT: 2}).actions == (Start(REF, "cpu-1", "cpu", "light"),)


def test_the_same_situation_gives_the_same_steps() -> None:
    replicas = [make_replica("cpu-0", "light"), make_replica("cpu-1", "light")]
    assert moves(replicas, {LIGHT: 1, HEAVY: 1}) == moves(list(reversed(replicas)), {LIGHT: 1, HEAVY: 1})


def test_several_replicas_of_a_pool_are_drained_at_once_but_never_its_last_one() -> None:
    replicas = [make_replica(f"cpu-{number}", "light") for number in range(5)]
    for at_once, drained in ((1, 1), (3, 3), (9, 4)):
        found = moves(replicas, {HEAVY: 5}, at_once=at_once)
        assert len(found.actions) == drained
    assert len(moves(replicas, {HEAVY: 5}, at_once=9, left={LIGHT}).actions) == 5


def test_replicas_out_of_service_already_count_among_those_that_may_be() -> None:
    replicas = [make_replica(f"cpu-{number}", "light") for number in range(4)]
    busy = [make_replica(f"cpu-{number}", "light", "draining", in_flight=2, since_s=99.5) for number in (4, 5)]
    found = moves([*replicas, *busy], {LIGHT: 1, HEAVY: 5}, at_once=3)
    assert len(found.actions) == 1


def test_a_pool_that_nobody_serves_gets_its_first_replica_before_another_its_second() -> None:
    turbo = ("turbo", "cpu")
    replicas = [
        make_replica("cpu-0", "heavy"),
        make_replica("cpu-1", "light", "draining", in_flight=0),
        make_replica("cpu-2", "light", "draining", in_flight=0),
    ]
    found = moves(replicas, {HEAVY: 5, turbo: 1})
    assert [a.variant for a in found.actions if isinstance(a, Start)] == ["turbo", "heavy"]
    free = moves(replicas[:1], {HEAVY: 5, turbo: 1}, free=1)
    assert [a.variant for a in free.actions if isinstance(a, Start)] == ["turbo"]

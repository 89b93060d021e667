"""What an agent does next: loads before it unloads where there is room, and waits for nobody who failed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_models.agent.steps import LONGEST_PAUSE_S, Deed, Host, Phase, Step, next_steps, next_try_s

NOW = 1000.0
MODELS = ("a", "b", "c")


def host(phase: Phase, *, print_: str = "1", since_s: float = NOW, failures: int = 0) -> Host:
    return Host(phase, since_s, print_, failures=failures)


def steps(wanted: dict[str, str], hosts: dict[str, Host], *, room: bool = True, now_s: float = NOW) -> set[Step]:
    return set(next_steps(wanted, hosts, room=room, now_s=now_s))


def test_with_room_what_is_missing_is_loaded_before_the_rest_goes() -> None:
    hosts = {"a": host(Phase.READY)}
    assert steps({"b": "1"}, hosts) == {Step(Deed.LOAD, "b")}
    assert steps({"b": "1"}, hosts | {"b": host(Phase.LOADING)}) == set()
    assert steps({"b": "1"}, hosts | {"b": host(Phase.READY)}) == {Step(Deed.UNLOAD, "a")}


def test_without_room_what_is_not_wanted_is_gone_before_anything_is_loaded() -> None:
    assert steps({"b": "1"}, {"a": host(Phase.READY)}, room=False) == {Step(Deed.UNLOAD, "a")}
    assert steps({"b": "1"}, {"a": host(Phase.UNLOADING)}, room=False) == set()
    assert steps({"b": "1"}, {}, room=False) == {Step(Deed.LOAD, "b")}


@pytest.mark.parametrize("room", [True, False])
def test_a_broken_model_is_mended_whatever_else_is_going_on(room: bool) -> None:
    hosts = {"a": host(Phase.BROKEN), "b": host(Phase.UNLOADING)}
    assert steps({"a": "1"}, hosts, room=room) == {Step(Deed.LOAD_ANEW, "a")}


def test_a_model_with_another_recipe_is_replaced_while_it_serves() -> None:
    assert steps({"a": "2"}, {"a": host(Phase.READY)}) == {Step(Deed.LOAD, "a")}


def test_a_failed_model_is_tried_again_after_growing_pauses_and_holds_up_nobody() -> None:
    failed = {"a": host(Phase.FAILED, failures=3), "b": host(Phase.READY)}
    due_s = failed["a"].due_s
    assert NOW < due_s < host(Phase.FAILED, failures=4).due_s
    assert host(Phase.FAILED, failures=99).due_s == NOW + LONGEST_PAUSE_S
    assert next_try_s(["a"], failed) == due_s
    assert steps({"a": "1"}, failed) == {Step(Deed.UNLOAD, "b")}, "its memory may be what was lacking"
    assert steps({"a": "1"}, failed, now_s=due_s) >= {Step(Deed.LOAD_ANEW, "a")}
    assert steps({"a": "2"}, failed) >= {Step(Deed.LOAD_ANEW, "a")}, "another recipe is not held against it"


@given(
    st.dictionaries(st.sampled_from(MODELS), st.sampled_from("12")),
    st.dictionaries(st.sampled_from(MODELS), st.builds(host, st.sampled_from(Phase), print_=st.sampled_from("12"))),
    st.booleans(),
)
def test_step_by_step_every_state_becomes_what_is_wanted(
    wanted: dict[str, str], hosts: dict[str, Host], room: bool
) -> None:
    """Whatever succeeds or is under way ends well; nothing busy is touched, and nothing wanted is unloaded."""
    for _ in range(10):
        begun = next_steps(wanted, hosts, room=room, now_s=NOW + 10 * LONGEST_PAUSE_S)
        assert len({step.model for step in begun}) == len(begun)
        for step in begun:
            assert step.model not in hosts or not hosts[step.model].busy
            assert (step.deed is Deed.UNLOAD) == (step.model not in wanted)
            if not room and step.deed is Deed.LOAD:
                assert all(model in wanted for model in hosts), "nothing is loaded beside what must go"
        done = {step.model: step.deed for step in begun}
        under_way = {Phase.UNLOADING: Deed.UNLOAD, Phase.LOADING: Deed.LOAD}
        busy = {model: under_way[one.phase] for model, one in hosts.items() if one.busy}
        for model, deed in {**busy, **done}.items():
            if deed is Deed.UNLOAD:
                del hosts[model]
            else:
                hosts[model] = host(Phase.READY, print_=wanted.get(model, "1"))
    assert {model: one.print for model, one in hosts.items()} == wanted
    assert all(one.phase is Phase.READY for one in hosts.values())

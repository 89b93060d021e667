"""Which requests are drawn next, and who overtakes whom: rules on a list, and the thread that obeys them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_models.recipe import Settings
from cascade_models.serving.runs import Runs
from cascade_models.serving.turns import PATIENCE, SHORTER, Turns
from support.waiting import PATIENCE_S, wait_for

BATCH = 4


@dataclass(frozen=True, eq=False)
class Wanted:
    """A request for images."""

    settings: Settings
    images: int = 1
    name: str = ""


def wanted(steps: int, *, images: int = 1, guidance: float | None = None, name: str = "") -> Wanted:
    return Wanted(Settings(steps, guidance), images, name)


def turns(*, runs: int = 3) -> Turns[Wanted]:
    return Turns(batch=BATCH, runs=runs)


def test_first_come_first_served_with_all_that_want_the_same_settings_up_to_a_batch() -> None:
    room = turns()
    come = [wanted(24), wanted(20), wanted(24, images=2), wanted(24, guidance=2.0), wanted(24, images=2), wanted(24)]
    room.wait(come)
    assert room.images_waiting == 8
    # The last of 24 steps does not overtake the one before it, although it would fit.
    for expected in ([0, 2], [1], [3], [4, 5]):
        assert room.begin() == [come[index] for index in expected]
        room.end()
    assert room.begin() == []
    assert room.images_waiting == 0


def test_a_request_of_more_images_than_a_batch_is_a_run_of_its_own() -> None:
    room = turns()
    large, other = wanted(4, images=BATCH + 1), wanted(4)
    room.wait([large, other])
    assert room.begin() == [large]


@pytest.mark.parametrize(("steps", "overtakes"), [(1, True), (6, True), (7, False), (24, False)])
def test_what_takes_a_quarter_of_the_steps_overtakes_and_what_is_hardly_shorter_waits(
    steps: int, overtakes: bool
) -> None:
    room = turns()
    room.wait([wanted(24)])
    room.begin()
    assert room.begin() == []
    short = wanted(steps)
    room.wait([wanted(24), short])
    assert room.begin() == ([short] if overtakes else [])


def test_who_overtakes_can_be_overtaken_and_no_more_runs_begin_than_may() -> None:
    room = turns(runs=2)
    long, short, shortest = wanted(24), wanted(4), wanted(1)
    room.wait([long])
    assert room.begin() == [long]
    room.wait([shortest, short])
    assert room.begin() == [shortest], "first come among those that may"
    assert room.begin() == []
    room.end()
    assert room.begin() == [short]
    room.wait([shortest])
    assert room.begin() == [], "two have begun"
    room.end()
    assert room.begin() == [shortest]


def test_one_run_at_a_time_lets_nobody_overtake() -> None:
    room = turns(runs=1)
    room.wait([wanted(24), wanted(1)])
    room.begin()
    assert room.begin() == []


def test_a_run_alone_that_ran_out_of_memory_halves_the_images_of_later_ones() -> None:
    room = turns()
    for images in (4, 2, 1, 1):
        room.wait([wanted(4) for _ in range(images)])
        assert len(room.begin()) == images
        assert f"at most {max(1, images // 2)} images a run, and 3 runs" in room.shrink()
        room.wait([wanted(1), wanted(1)])
        room.end()
        assert len(room.begin()) == min(2, max(1, images // 2))
        room.end()
        while room.begin():
            room.end()


def test_a_run_that_ran_out_of_memory_beside_an_overtaken_one_overtakes_no_more() -> None:
    room = turns()
    room.wait([wanted(24), wanted(4)])
    room.begin()
    room.begin()
    assert "at most 4 images a run, and 1 runs" in room.shrink()
    room.end()
    room.wait([wanted(4)])
    assert room.begin() == [], "there is no room beside the long one"
    room.end()
    assert room.begin()


def test_a_run_is_overtaken_by_three_times_its_work_and_then_by_nobody() -> None:
    room = turns()
    room.wait([wanted(8)])
    room.begin()
    overtook = 0
    while True:
        room.wait([wanted(2)])
        if not room.begin():
            break
        room.end()
        overtook += 2
    assert overtook == PATIENCE * 8
    room.end()
    assert room.begin(), "its turn has come"


@dataclass
class Device:
    """Takes steps by turns: what has ended when, and what each run had to do until then, in images times steps."""

    room: Turns[Wanted]
    arrivals: Iterator[Wanted]
    done: int = 0
    begun: list[Wanted] = field(default_factory=list)
    depth: int = 0
    deepest: int = 0

    def work(self) -> None:
        while run := self.room.begin():
            self.draw(run)

    def draw(self, run: Sequence[Wanted]) -> None:
        self.begun += run
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        images, steps = sum(one.images for one in run), run[0].settings.steps
        assert len({one.settings for one in run}) == 1
        assert images <= BATCH or len(run) == 1
        began = self.done
        for _ in range(steps):
            self.work()
            self.done += images
            if (arrived := next(self.arrivals, None)) is not None:
                self.room.wait([arrived])
        own = images * steps
        # At worst, the last to overtake it began just before its patience ended.
        assert self.done - began <= (1 + PATIENCE) * own + BATCH * steps // SHORTER
        self.depth -= 1
        self.room.end()


REQUESTS = st.builds(wanted, st.sampled_from([1, 2, 3, 6, 8, 12, 24, 50]), images=st.integers(1, BATCH))


@given(st.lists(REQUESTS, min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 40))
def test_nobody_starves_and_nobody_is_forgotten(requests: list[Wanted], runs: int, at_once: int) -> None:
    device = Device(turns(runs=runs), iter(requests[at_once:]))
    device.room.wait(requests[:at_once])
    device.work()
    # What came during the last step of all.
    device.work()
    assert len(device.begun) == len(requests)
    assert {id(one) for one in device.begun} == {id(one) for one in requests}
    assert device.deepest <= runs
    for settings in {one.settings for one in requests}:
        same = [one for one in requests if one.settings == settings]
        assert [id(one) for one in device.begun if one.settings == settings] == [id(one) for one in same]


def drawing(told: list[str], held: dict[str, threading.Event]) -> Callable[[Runs[Wanted], Sequence[Wanted]], None]:
    """Draws runs by turns; writes down who takes a step, and waits before a step of the runs that are held."""

    def make(runs: Runs[Wanted], run: Sequence[Wanted]) -> None:
        name = "+".join(one.name for one in run)
        for _ in range(run[0].settings.steps):
            runs.turn()
            told.append(name)
            if name in held:
                assert held[name].wait(PATIENCE_S)

    return make


def test_a_short_run_is_made_between_two_steps_of_a_long_one() -> None:
    told: list[str] = []
    held = {"long": threading.Event()}
    make = drawing(told, held)
    runs: Runs[Wanted] = Runs(lambda run: make(runs, run), turns(), waiting=8)
    with closing(runs):
        runs.ask([wanted(8, name="long")])
        wait_for(lambda: told, what="the first step")
        runs.ask([wanted(2, name="a"), wanted(2, name="b"), wanted(7, name="next")])
        held["long"].set()
    assert told == ["long", *["a+b"] * 2, *["long"] * 7, *["next"] * 7]


def test_who_brings_more_than_may_wait_waits_until_there_is_room() -> None:
    told: list[str] = []
    held = {"first": threading.Event()}
    make = drawing(told, held)
    runs: Runs[Wanted] = Runs(lambda run: make(runs, run), turns(), waiting=2)
    with closing(runs):
        runs.ask([wanted(1, name="first")])
        wait_for(lambda: told, what="the first step")
        runs.ask([wanted(1, name="a"), wanted(1, name="b")])
        more = threading.Thread(target=runs.ask, args=([wanted(1, name="c")],))
        more.start()
        more.join(0.05)
        assert more.is_alive()
        held["first"].set()
        more.join(PATIENCE_S)
    assert told[:2] == ["first", "a+b"]
    assert told[2:] == ["c"]


def test_a_run_that_waited_is_told_for_how_long() -> None:
    waited: list[float] = []
    free = threading.Event()

    def make(run: Sequence[Wanted]) -> None:
        if run[0].name == "short":
            assert free.wait(PATIENCE_S)
        else:
            runs.ask([wanted(1, name="short")])
            threading.Timer(0.05, free.set).start()
            waited.extend([runs.turn(), runs.turn()])

    runs: Runs[Wanted] = Runs(make, turns(), waiting=8)
    with closing(runs):
        runs.ask([wanted(8, name="long")])
    assert waited[0] >= 0.04
    assert waited[1] < waited[0]

"""Whose turn it is: which requests are drawn next, and who may overtake whom (pure).

A *run* is a few requests that are drawn together, since they want the same settings. One thread makes all runs. Between
two steps of a run it asks here whether another run shall be made first, from beginning to end; then the overtaken run
goes on. So the runs that have begun form a stack, and only the topmost is at work. Three rules decide:

1. Much shorter work goes first: a run is overtaken by images that take at most a quarter of its steps. What is hardly
   shorter waits, since it would come sooner by only as much as the other comes later.
2. Nobody starves: a run that has been overtaken by three times its own work is overtaken no more, so it takes at most
   four times as long as alone, and one run more.
3. Otherwise, first come, first served.

For example, a run of 24 steps is at work when requests for 2 steps and for 12 steps come. Before its next step, the
image of 2 steps is drawn; that of 12 steps is drawn after the run of 24 has ended.

Work is steps times images: the weights and the size are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from cascade_models.recipe import Settings

SHORTER: Final = 4
"""How many times as many steps a run must have as the images that overtake it."""

PATIENCE: Final = 3
"""By how many times its own work a run is overtaken at most."""


class Request(Protocol):
    """What is to be drawn."""

    @property
    def settings(self) -> Settings: ...

    @property
    def images(self) -> int: ...


RequestT = TypeVar("RequestT", bound=Request)


@dataclass
class _Begun:
    """A run that has begun: its steps, its images, and the work by which it was overtaken."""

    steps: int
    images: int
    overtaken: int = 0

    @property
    def work(self) -> int:
        return self.steps * self.images


class Turns(Generic[RequestT]):
    """The requests that wait, in the order in which they came, and the runs that have begun.

    Args:
        batch: images of a run, at most; a request of more is a run of its own.
        runs: runs that may have begun at a time: each that is overtaken keeps its unfinished images in memory.
    """

    def __init__(self, *, batch: int, runs: int) -> None:
        self._batch = batch
        self._runs = runs
        self._waiting: list[RequestT] = []
        self._begun: list[_Begun] = []

    @property
    def images_waiting(self) -> int:
        """Images whose run has not begun."""
        return sum(request.images for request in self._waiting)

    def wait(self, requests: Sequence[RequestT]) -> None:
        """Requests have come."""
        self._waiting.extend(requests)

    def begin(self) -> list[RequestT]:
        """The requests of the run that shall be made now, before the one at work goes on; empty where that goes on."""
        if len(self._begun) >= self._runs or any(run.overtaken >= PATIENCE * run.work for run in self._begun):
            return []
        limit = self._begun[-1].steps / SHORTER if self._begun else math.inf
        first = next((request for request in self._waiting if request.settings.made_steps <= limit), None)
        if first is None:
            return []
        run, rest, images = [first], [], first.images
        full = False
        for request in self._waiting:
            if request is first:
                continue
            if not full and request.settings == first.settings:
                full = images + request.images > self._batch
                if not full:
                    run.append(request)
                    images += request.images
                    continue
            rest.append(request)
        self._waiting = rest
        begun = _Begun(first.settings.made_steps, images)
        for overtaken in self._begun:
            overtaken.overtaken += begun.work
        self._begun.append(begun)
        return run

    def shrink(self) -> str:
        """Let less be in flight from now on, since the run that began last ran out of memory; says what may be.

        If it overtook others, the memory of their unfinished images was missing, and one run fewer may begin at a time.
        If it was alone, later runs have half of its images.
        """
        last = self._begun[-1]
        if len(self._begun) > 1:
            self._runs = min(self._runs, len(self._begun) - 1)
        else:
            self._batch = min(self._batch, max(1, last.images // 2))
        return f"from now on at most {self._batch} images a run, and {self._runs} runs at a time"

    def end(self) -> None:
        """The run that began last has ended."""
        self._begun.pop()

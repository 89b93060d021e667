"""What to do next so that a Triton hosts what is wanted (pure): which models to load, load again and unload, and when.

Several operations may be under way at once, one for each model. With room in memory, models are loaded before others
are unloaded; without, the other way round. A model that cannot be loaded is tried again after growing pauses, and stops
nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0


class Phase(str, Enum):
    """Where a model is, as its Triton showed it."""

    LOADING = "loading"
    READY = "ready"
    """It has drawn an image."""
    BROKEN = "broken"
    """It was ready, and does not draw any more."""
    UNLOADING = "unloading"
    FAILED = "failed"
    """It could not be loaded, or did not draw."""


@dataclass(frozen=True)
class Host:
    """A model in a Triton.

    Attributes:
        since_s: when it entered the phase, in Unix seconds.
        print: digest of the recipe that was loaded, or is being loaded.
        message: what was wrong with it last; empty where nothing was.
        failures: loads in a row that failed.
    """

    phase: Phase
    since_s: float
    print: str
    message: str = ""
    failures: int = 0

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self.phase in (Phase.LOADING, Phase.UNLOADING)

    @property
    def due_s(self) -> float:
        """When a failed load is to be tried again, in Unix seconds."""
        return self.since_s + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * float(2 ** min(self.failures - 1, 10)))


class Deed(Enum):
    """What can be done with a model."""

    LOAD = "load"
    LOAD_ANEW = "load anew"
    """Unload what is left of it, and load it: what gives it a new process."""
    UNLOAD = "unload"


@dataclass(frozen=True)
class Step:
    """One thing to begin now."""

    deed: Deed
    model: str


def next_steps(wanted: Mapping[str, str], hosts: Mapping[str, Host], *, room: bool, now_s: float) -> list[Step]:
    """What to begin now. ``wanted`` has the digests of recipes by model, ``hosts`` what is there or under way."""
    dropped = {model: host for model, host in hosts.items() if model not in wanted}
    loads = [step for model in wanted if (step := _towards(model, wanted[model], hosts.get(model), now_s)) is not None]
    unloads = [Step(Deed.UNLOAD, model) for model, host in dropped.items() if not host.busy]
    if not room:
        mends = [step for step in loads if step.deed is Deed.LOAD_ANEW and hosts[step.model].phase is Phase.BROKEN]
        return unloads + (mends if dropped else loads)
    # What failed waits for its next try, and perhaps for the memory of what is unloaded.
    coming = any((host := hosts.get(model)) is None or host.busy or host.phase is Phase.BROKEN for model in wanted)
    return loads + ([] if coming else unloads)


def next_try_s(wanted: Iterable[str], hosts: Mapping[str, Host]) -> float | None:
    """When the next failed load is due, in Unix seconds; None where none has failed."""
    failed = (hosts[model] for model in wanted if model in hosts and hosts[model].phase is Phase.FAILED)
    return min((host.due_s for host in failed), default=None)


def _towards(model: str, print_: str, host: Host | None, now_s: float) -> Step | None:
    """What brings a model to where it is wanted; None while nothing does, or is under way."""
    if host is None:
        return Step(Deed.LOAD, model)
    match host.phase:
        case Phase.BROKEN:
            return Step(Deed.LOAD_ANEW, model)
        case Phase.FAILED if now_s >= host.due_s or host.print != print_:
            return Step(Deed.LOAD_ANEW, model)
        case Phase.READY if host.print != print_:
            return Step(Deed.LOAD, model)
        case _:
            return None

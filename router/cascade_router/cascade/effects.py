"""The effects that a request's machine asks for.

A driver (the router's or the simulator's) carries effects out in their order and makes no decisions itself. When the
last effect of a step has ended, the driver reports this as the next event:

| effect | next event |
|---|---|
| `Enqueue`, `Exchange` | `Granted`, `NoReplica`, `Expired` or `Full` |
| `Infer` | `Made`, `Failed`, `OutOfTime` or `Rejected` |
| `Wait` | `Waited` |
| `Answer`, `Refuse` | none: the request has ended |

`Release`, `Preview`, `Ejected` and `Trusted` come before the last effect, and no event follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade_api.reasons import Route

from .decisions import Make, Refuse


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Wait for a replica of ``step.pool`` until ``step.start_by``; ``retry``: another replica has failed before."""

    step: Make
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """Like `Enqueue`, but it also gives back the grant that is held, whose replica took ``service_s`` seconds."""

    step: Make
    service_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """Give the grant back. ``service_s`` is None if the time says nothing about the replica's speed.

    ``failed`` means that the replica is at fault; then the queue gives it no grants for a while.
    """

    service_s: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Infer:
    """Have the granted replica make the image; cancel the call after ``timeout_s`` seconds.

    If ``only_judged``, the image will not be the answer, however good it is: only its confidence is needed, and the
    image itself only for a preview.
    """

    step: Make
    replica_id: str
    timeout_s: float
    only_judged: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a change of plan or health, at most until ``until`` (seconds on the machine's clock)."""

    until: float


@dataclass(frozen=True, slots=True)
class Answer:
    """This image is the answer. ``confidence`` is None if the light model was skipped."""

    image: Any
    variant: str
    route: Route
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Preview:
    """Show the client the light image while the heavy one is being made."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Ejected:
    """A replica is no longer trusted. ``emptied`` are pools that have no other one, so nobody should wait there."""

    replica_id: str
    why: str
    emptied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trusted:
    """A replica is trusted again, so requests that wait for a change should look again."""

    replica_id: str


Effect = Enqueue | Exchange | Release | Infer | Wait | Answer | Preview | Ejected | Trusted | Refuse

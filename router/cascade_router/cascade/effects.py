"""What a request asks for. Who drives the machine carries effects out in their order, and knows nothing of the policy.

The last effect of a step is the one whose end is the next event:

| effect | next event |
|---|---|
| `Enqueue`, `Exchange` | `Granted`, `NoReplica`, `Expired` or `Full` |
| `Infer` | `Made`, `Failed`, `OutOfTime` or `Rejected` |
| `Wait` | `Waited` |
| `Answer`, `Refuse` | none: the request has ended |

`Release`, `Preview`, `Ejected` and `Trusted` come before it and have no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade_api.reasons import Route

from .decisions import Make, Refuse


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Wait for a replica of ``step.pool`` until ``step.start_by``; ``retry``: a replica failed at this before."""

    step: Make
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """The same, and give the grant that is held back with it; its replica took ``service_s`` seconds."""

    step: Make
    service_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """Give the grant back. ``service_s`` is None where the time says nothing of the replica's speed.

    ``failed``: the replica is at fault, and the queue gives it no grants for a while.
    """

    service_s: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Infer:
    """Have the replica that was granted make the image; cancel the call after ``timeout_s`` seconds."""

    step: Make
    replica_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a change of plan or health, at most until ``until``, in seconds on the machine's clock."""

    until: float


@dataclass(frozen=True, slots=True)
class Answer:
    """This image is the answer. ``confidence`` is None where the light model was skipped."""

    image: Any
    variant: str
    route: Route
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Preview:
    """Show the client its light image while the heavy one is being made."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Ejected:
    """A replica is not trusted any more. ``emptied`` are pools that are left without any: nobody should wait there."""

    replica_id: str
    why: str
    emptied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trusted:
    """A replica is trusted again: whoever waits for a change should look."""

    replica_id: str


Effect = Enqueue | Exchange | Release | Infer | Wait | Answer | Preview | Ejected | Trusted | Refuse

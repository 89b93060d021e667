"""What a request hears: the end of what it asked for last, see `effects`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade_api.report import BatchTime


@dataclass(frozen=True, slots=True)
class Arrived:
    """The first event: the request came, and this router has ``in_hand`` requests now, this one among them."""

    in_hand: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The second event: there is room for the image, so the request goes its way."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The queue gave the request a place on a replica."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class NoReplica:
    """The pool has no replica that takes work, or lost its last one."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The last useful start has passed in the queue."""


@dataclass(frozen=True, slots=True)
class Full:
    """The pool's queue had no room."""

    waiting: int
    expected_wait_s: float


@dataclass(frozen=True, slots=True)
class Made:
    """The replica made the image, which the machine only hands on.

    ``confidence`` is the discriminator's score, ``batch_time`` what the replica said of its batch.
    """

    image: Any
    confidence: float | None
    batch_time: BatchTime | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The replica did not do its work; another one might."""

    why: str


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """The time given to the replica is over, and the call was cancelled."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The model cannot draw this prompt; ``why`` is for the client."""

    why: str


@dataclass(frozen=True, slots=True)
class Waited:
    """The wait for a change is over: plan or health changed, or (``changed`` false) the time has passed."""

    changed: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client went away. What the queue still has of the request is withdrawn by whoever drives the machine."""


Event = (
    Arrived | Begun | Granted | NoReplica | Expired | Full | Made | Failed | OutOfTime | Rejected | Waited | Cancelled
)

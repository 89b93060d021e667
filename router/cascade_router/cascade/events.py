"""The events that a request's machine gets. Each one reports how the last effect ended (see `effects`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade_api.report import BatchTime


@dataclass(frozen=True, slots=True)
class Arrived:
    """The first event: the request arrived, and this router now has ``in_hand`` requests, including this one."""

    in_hand: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The second event: memory for the image is reserved, so the request can begin."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The queue gave the request a place on a replica."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class NoReplica:
    """The pool has no replica that takes work, or has just lost its last one."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The request waited in the queue until starting it would be too late."""


@dataclass(frozen=True, slots=True)
class Full:
    """The pool's queue was full."""

    waiting: int
    expected_wait_s: float


@dataclass(frozen=True, slots=True)
class Made:
    """The replica made the image, which the machine only passes on.

    ``confidence`` is the discriminator's score, and ``batch_time`` what the replica reported about its batch.
    """

    image: Any
    confidence: float | None
    batch_time: BatchTime | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The replica failed; another one might succeed."""

    why: str


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """The replica did not answer within its time, and the call was cancelled."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The model cannot draw this prompt; ``why`` is shown to the client."""

    why: str


@dataclass(frozen=True, slots=True)
class Waited:
    """The wait for a change has ended: plan or health changed, or the time is over (``changed`` is false)."""

    changed: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client went away. The driver withdraws the request from the queue if it is still there."""


Event = (
    Arrived | Begun | Granted | NoReplica | Expired | Full | Made | Failed | OutOfTime | Rejected | Waited | Cancelled
)

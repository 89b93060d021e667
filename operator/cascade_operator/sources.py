"""Where the loop gets cascades and profiles from: a file, or a cluster whose resources may change at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import CascadeFile
from cascade_api.names import CascadeRef
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import Reason
from cascade_api.status import CascadeStatus, WorkerPoolStatus
from cascade_api.workers import WorkerPool

Complaint = tuple[Reason, str]
"""What is wrong with a resource: the reason, and a message that names the field."""


@dataclass(frozen=True)
class Subject:
    """A cascade to plan, with the last spec and profile that were valid.

    ``complaint`` says what is wrong with newer ones, ``status`` is what was reported before this process began, and
    ``uid`` is the resource's identity on its cluster.
    """

    cascade: DiffusionCascade
    profile: CascadeProfile | None
    status: CascadeStatus | None = None
    complaint: Complaint | None = None
    uid: str = ""


@dataclass(frozen=True)
class Refused:
    """A cascade that never had a valid spec: it cannot be planned, but its status can say why."""

    ref: CascadeRef
    generation: int
    complaint: Complaint
    status: CascadeStatus | None = None


@dataclass(frozen=True)
class PoolSubject:
    """A WorkerPool to plan, with the last spec that was valid; the other fields are those of a `Subject`."""

    pool: WorkerPool
    status: WorkerPoolStatus | None = None
    complaint: Complaint | None = None
    uid: str = ""


class Source(Protocol):
    """The cascades that one operator is responsible for, and their WorkerPools."""

    async def subjects(self) -> Sequence[Subject | Refused] | None:
        """All cascades that exist; None while they are not known."""

    def pools(self) -> Sequence[PoolSubject]:
        """The WorkerPools that existed when `subjects` were asked for last."""

    def owns(self, ref: CascadeRef) -> bool:
        """Whether a cascade would be among the subjects if it existed."""


class FileSource:
    """The cascades and WorkerPools of a file; they never change."""

    def __init__(self, file: CascadeFile) -> None:
        self._subjects = [Subject(cascade, file.profile_of(cascade)) for cascade in file.cascades]
        self._pools = tuple(map(PoolSubject, file.pools))

    async def subjects(self) -> Sequence[Subject | Refused] | None:
        return self._subjects

    def pools(self) -> Sequence[PoolSubject]:
        return self._pools

    def owns(self, ref: CascadeRef) -> bool:
        return any(subject.cascade.ref == ref for subject in self._subjects)

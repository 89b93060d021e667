"""Where the loop takes cascades and profiles from: a file, or a cluster whose resources change under its hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import CascadeFile
from cascade_api.names import CascadeRef
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import Reason
from cascade_api.status import CascadeStatus

Complaint = tuple[Reason, str]
"""What is wrong with a resource: the reason, and a message that names the field."""


@dataclass(frozen=True)
class Subject:
    """A cascade to plan, with the last spec and profile that were valid.

    ``complaint`` is what is wrong with newer ones, ``status`` what was reported before this process began, ``uid`` the
    resource's identity on its cluster.
    """

    cascade: DiffusionCascade
    profile: CascadeProfile | None
    status: CascadeStatus | None = None
    complaint: Complaint | None = None
    uid: str = ""


@dataclass(frozen=True)
class Refused:
    """A cascade of which no spec was ever valid: nothing can be planned, but it can be told why."""

    ref: CascadeRef
    generation: int
    complaint: Complaint
    status: CascadeStatus | None = None


class Source(Protocol):
    """The cascades that one operator is responsible for."""

    async def subjects(self) -> Sequence[Subject | Refused] | None:
        """All cascades there are; None while that is not known."""

    def owns(self, ref: CascadeRef) -> bool:
        """Whether a cascade, were it there, would be among the subjects."""


class FileSource:
    """The cascades of a file; they never change."""

    def __init__(self, file: CascadeFile) -> None:
        self._subjects = [Subject(cascade, file.profile_of(cascade)) for cascade in file.cascades]

    async def subjects(self) -> Sequence[Subject | Refused] | None:
        return self._subjects

    def owns(self, ref: CascadeRef) -> bool:
        return any(subject.cascade.ref == ref for subject in self._subjects)

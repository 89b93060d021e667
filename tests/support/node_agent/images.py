"""What replaces a container image on this machine: folders with programs, and what the image would set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """Replaces a container image.

    Attributes:
        programs: folders to look for commands in, before those of the system.
        environment: variables that the image sets.
        entrypoint: the command of a container that names none.
        needs: folders that volumes must not hide.
    """

    programs: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()
    needs: Sequence[Path] = ()


class Images:
    """A table of images by the last part of their names, without registry, tag and digest."""

    def __init__(self, table: Mapping[str, Image]) -> None:
        self._table = dict(table)

    def find(self, reference: str) -> Image:
        """Raises KeyError, naming the images that there are."""
        name = reference.rpartition("/")[2].partition("@")[0].partition(":")[0]
        try:
            return self._table[name]
        except KeyError:
            raise KeyError(f"no image {name!r} on this machine, only {', '.join(sorted(self._table))}") from None

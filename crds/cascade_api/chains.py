"""A chain: the one or two variants that a prompt may pass through, the cheapest first.

The first variant of a chain of two is *light* and the last one *heavy*. The only variant of a chain of one counts as
heavy: every prompt goes straight to it, and its images are not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from .base import NAME_PATTERN, field_error

VariantName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=40)]
Variants = tuple[str, ...]


class Chained:
    """Base of all classes that have a ``chain``."""

    if TYPE_CHECKING:

        @property
        def chain(self) -> Sequence[str]: ...

    @property
    def alone(self) -> bool:
        """Whether the chain has only one variant."""
        return len(self.chain) == 1

    @property
    def light(self) -> str:
        """The first variant."""
        return self.chain[0]

    @property
    def heavy(self) -> str:
        """The last variant; in a chain of one it is also the first."""
        return self.chain[-1]

    @property
    def path(self) -> str:
        """The chain in words: ``light → heavy``."""
        return " → ".join(self.chain)


def refuse_twice(field: str, chain: Sequence[str]) -> None:
    """Raise the field's error if a chain contains a variant twice."""
    if len(set(chain)) < len(chain):
        raise field_error(field, f"passes {chain[0]!r} twice: name two variants, or one")

"""A chain: the one or two variants that a prompt may pass through, the cheapest first.

The first variant of a chain of two is *light* and the last one *heavy*. A variant that is a chain alone counts as a
heavy one: every prompt goes straight to it, and nothing judges its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from .base import NAME_PATTERN, field_error

VariantName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=40)]
Variants = tuple[str, ...]


class Chained:
    """Base of what has a ``chain``."""

    if TYPE_CHECKING:

        @property
        def chain(self) -> Sequence[str]: ...

    @property
    def alone(self) -> bool:
        """Whether the chain is one variant."""
        return len(self.chain) == 1

    @property
    def light(self) -> str:
        """The first variant."""
        return self.chain[0]

    @property
    def heavy(self) -> str:
        """The last variant, which is the first one too where that is alone."""
        return self.chain[-1]

    @property
    def path(self) -> str:
        """The chain in words: ``light → heavy``."""
        return " → ".join(self.chain)


def refuse_twice(field: str, chain: Sequence[str]) -> None:
    """Raise the field's error where a chain passes a variant twice."""
    if len(set(chain)) < len(chain):
        raise field_error(field, f"passes {chain[0]!r} twice: name two variants, or one")

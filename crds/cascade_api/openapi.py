"""Annotations of the models that become Kubernetes' schema extensions: CEL rules and list types. Pure.

Each rule is written next to the validator that checks the same. The validator is used by the commands and the operator,
the rule by API servers of Kubernetes 1.25 or later (older ones ignore it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from .base import field_error

VALIDATIONS = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
INT_OR_STRING = "x-kubernetes-int-or-string"
_READABLE = "^0*([0-9]{1,10}ms|[0-9]{1,9}s|[0-9]{1,6}[mh])$"


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """CEL rules of an object from pairs (expression, message if it is false)."""
    return {VALIDATIONS: [{"rule": rule, "message": message} for rule, message in pairs]}


def at_most(duration: str, limit: str) -> str:
    """The CEL expression that a duration is at most ``limit``; CEL cannot read durations of more than 292 years."""
    return f"{duration}.matches('{_READABLE}') && duration({duration}) <= duration('{limit}')"


def keyed_by(*keys: str) -> dict[str, Any]:
    """A list whose items are identified by ``keys``; no two items may agree in all of them."""
    return {LIST_TYPE: "map", LIST_KEYS: list(keys)}


def as_set() -> dict[str, Any]:
    """A list of scalars without repetition."""
    return {LIST_TYPE: "set"}


def refuse_repetition(field: str, keys: Iterable[Hashable], *, fix: str) -> None:
    """Raise the field's error if two of ``keys`` are equal; the API server checks the same by the type of the list."""
    for key, count in Counter(keys).items():
        if count > 1:
            raise field_error(field, f"{key!r} is there twice: {fix}")

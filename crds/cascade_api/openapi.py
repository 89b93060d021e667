"""Marks on the models that become Kubernetes' schema extensions: CEL rules and list types. Pure.

A rule stands beside the validator that it mirrors: the validator speaks in the command line and the operator, the
rule in an API server of Kubernetes 1.25 or later (older ones ignore it).
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
    """CEL rules of an object as (expression, message when it is false)."""
    return {VALIDATIONS: [{"rule": rule, "message": message} for rule, message in pairs]}


def at_most(duration: str, limit: str) -> str:
    """The CEL expression that a duration is no longer than another; CEL itself cannot read one of over 292 years."""
    return f"{duration}.matches('{_READABLE}') && duration({duration}) <= duration('{limit}')"


def keyed_by(*keys: str) -> dict[str, Any]:
    """A list whose items are told apart by ``keys``, which no two items share."""
    return {LIST_TYPE: "map", LIST_KEYS: list(keys)}


def as_set() -> dict[str, Any]:
    """A list of scalars without repetition."""
    return {LIST_TYPE: "set"}


def refuse_repetition(field: str, keys: Iterable[Hashable], *, fix: str) -> None:
    """Raise the field's error where two of ``keys`` are equal; the API server does the same by the list's type."""
    for key, count in Counter(keys).items():
        if count > 1:
            raise field_error(field, f"{key!r} is there twice: {fix}")

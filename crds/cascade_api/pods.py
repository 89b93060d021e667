"""What a cascade adds to its replicas' pods, field by field: an API server drops what is not here, however nested.

A part that were kept unread could be nested so deep that no client can read the list of all cascades any more. What
the fields mean is Kubernetes' own matter, and a value that it does not take is refused when a pod is made.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from .base import Document
from .openapi import INT_OR_STRING
from .quantities import Integer

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i|[eE][0-9]+)?$"
_QUANTITY_LENGTH = 32

Word = Annotated[str, Field(max_length=253)]
Text = Annotated[str, Field(max_length=32_768)]


def _quantity(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _QUANTITY_LENGTH and re.fullmatch(QUANTITY_PATTERN[1:-1], value):
        return value
    raise PydanticCustomError("quantity", "is not a quantity: write one such as 4, 500m or 8Gi")


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "maxLength": _QUANTITY_LENGTH,
            INT_OR_STRING: True,
        }
    ),
]
Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]


class Toleration(Document):
    """A taint that the pods bear."""

    key: Word | None = None
    """The taint's key; absent: every key."""
    operator: Word | None = None
    """`Equal` or `Exists`."""
    value: Word | None = None
    """The taint's value."""
    effect: Word | None = None
    """The taint's effect; absent: every effect."""
    toleration_seconds: Integer | None = None
    """How long a taint of effect `NoExecute` is borne; absent: for ever."""


class KeyReference(Document):
    """A key of a Secret or ConfigMap in the same namespace."""

    name: Word
    """Name of the Secret or ConfigMap."""
    key: Word
    """The key."""
    optional: Annotated[bool, Field(strict=True)] | None = None
    """Whether it may be missing."""


class FieldReference(Document):
    """A field of the pod."""

    api_version: Word | None = None
    """Version that the path is of."""
    field_path: Word
    """The path, such as `spec.nodeName`."""


class ResourceReference(Document):
    """A request or limit of the container."""

    container_name: Word | None = None
    """The container; absent: this one."""
    resource: Word
    """The resource, such as `limits.memory`."""
    divisor: Word | None = None
    """The unit that it is told in."""


class VariableSource(Document):
    """Where the value of an environment variable comes from."""

    secret_key_ref: KeyReference | None = None
    config_map_key_ref: KeyReference | None = None
    field_ref: FieldReference | None = None
    resource_field_ref: ResourceReference | None = None


class Variable(Document):
    """An environment variable."""

    name: Word
    """Its name."""
    value: Text | None = None
    """Its value."""
    value_from: VariableSource | None = None


class Resources(Document):
    """Requests and limits of the container."""

    requests: Quantities = Field(default_factory=dict)
    """By resource, such as `memory: 8Gi`."""
    limits: Quantities = Field(default_factory=dict)
    """By resource."""


class PodTemplate(Document):
    """Curated overrides of a replica's pod."""

    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32)
    """Added to the node selector of the class."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32)
    """Tolerations of the pods."""
    env: list[Variable] = Field(default_factory=list, max_length=64)
    """Environment of the model container."""
    resources: Resources = Resources()
    """Requests and limits besides the accelerator."""
    annotations: dict[str, str] = Field(default_factory=dict, max_length=32)
    """Annotations of the pods."""

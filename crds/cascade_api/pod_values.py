"""Words, names, paths and quantities of a pod's fields, with patterns that an API server can check. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from .openapi import INT_OR_STRING

OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"
MOUNT_PATH_PATTERN = r"^(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
RELATIVE_PATH_PATTERN = r"^\.?[A-Za-z0-9_-][A-Za-z0-9._-]*(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"
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

ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
"""Name of an object that is not this product's own."""
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE_PATTERN, max_length=63)]
MountPath = Annotated[str, Field(pattern=MOUNT_PATH_PATTERN, max_length=253)]
RelativePath = Annotated[str, Field(pattern=RELATIVE_PATH_PATTERN, max_length=253)]
Flag = Annotated[bool, Field(strict=True)]

"""The base of all documents: camelCase on the wire, no unknown fields, frozen values, errors that name a field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class Document(BaseModel):
    """Base of every model of the vocabulary."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def wire(self) -> dict[str, Any]:
        """The document as it is written: camelCase, without absent optional fields, JSON types only."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Metadata(Document):
    """Object metadata; fields that the API server adds are kept as they are."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=NAME_PATTERN, max_length=63)
    namespace: str = Field(default="default", pattern=NAME_PATTERN, max_length=63)
    generation: int = Field(default=1, ge=0)


def field_error(field: str, message: str) -> PydanticCustomError:
    """An error of a rule between fields, reported for ``field`` (a dotted path below the model)."""
    # pydantic would read braces as a template
    safe = message.replace("{", "(").replace("}", ")")
    return PydanticCustomError("cross_field", safe, {"field": field})

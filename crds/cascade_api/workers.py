"""Pools of workers: their accelerator class, how many there are, where they run and what they may cost (design 5.1)."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from .base import NAME_PATTERN, Document, field_error
from .openapi import rules
from .pods import PodTemplate
from .quantities import Integer, Money

ClassName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
PoolName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
Count = Annotated[Integer, Field(ge=0, le=10_000)]


class Hosting(str, Enum):
    """What a worker hosts."""

    SHARED = "shared"
    DEDICATED = "dedicated"


class ModelCache(Document):
    """Where downloaded weights are kept on a cluster."""

    claim_name: str = Field(pattern=NAME_PATTERN, max_length=253)
    """Name of the PersistentVolumeClaim."""


class Workers(Document):
    """A pool of workers that belongs to a cascade: accelerators of one class, each with a server on it."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.min <= self.max", "min is above max: lower min or raise max")),
    )

    name: PoolName
    """Name of the pool, by which variants refer to it."""
    accelerator_class: ClassName = Field(alias="class")
    """Accelerator class; two pools of a cascade cannot have the same one."""
    min: Count = 0
    """Fewest workers, even without load."""
    max: Count
    """Most workers, even while data is missing."""
    hosting: Hosting = Hosting.DEDICATED
    """`dedicated`: a worker hosts the weights of one variant; `shared`: of all variants, or of as many as its memory
    holds."""
    budget_per_hour: Money | None = None
    """The most that the workers may cost per hour, by the price of the class."""
    model_cache: ModelCache | None = None
    pod_template: PodTemplate = PodTemplate()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise field_error("min", f"{self.min} is above max ({self.max}): lower min or raise max")
        return self

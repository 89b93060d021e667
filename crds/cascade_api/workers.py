"""Pools of workers: of which accelerator class, how many, where they run and what they may cost (design 5.1)."""

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
    """A pool of workers of a cascade's own: accelerators of one class, each with the server on it."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.min <= self.max", "min is above max: lower min or raise max")),
    )

    name: PoolName
    """Name of the pool, which variants name it by."""
    accelerator_class: ClassName = Field(alias="class")
    """Accelerator class; no two pools of a cascade have the same."""
    min: Count = 0
    """Fewest workers, also without load."""
    max: Count
    """Most workers; missing data never lifts it."""
    hosting: Hosting = Hosting.DEDICATED
    """`dedicated`: a worker hosts the weights of one variant; `shared`: of all variants, or of as many as its memory
    holds. Clusters and local mode refuse `shared` so far; `cascade plan` and `cascade simulate` know it."""
    budget_per_hour: Money | None = None
    """Most money per hour, by the price of the class."""
    model_cache: ModelCache | None = None
    pod_template: PodTemplate = PodTemplate()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise field_error("min", f"{self.min} is above max ({self.max}): lower min or raise max")
        return self

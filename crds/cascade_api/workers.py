"""Pools of workers: their accelerator class, how many there are, where they run and what they may cost (design 5.1)."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from .base import NAME_PATTERN, Document, Metadata, field_error
from .names import API_VERSION
from .openapi import rules
from .pods import PodTemplate
from .quantities import Integer, Money

ClassName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
PoolName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
Count = Annotated[Integer, Field(ge=0, le=10_000)]


CLASS_STAYS: Final = "is immutable: make another WorkerPool, and have the cascades name that one"


class Hosting(str, Enum):
    """What a worker hosts."""

    SHARED = "shared"
    DEDICATED = "dedicated"


class ModelCache(Document):
    """Where downloaded weights are kept on a cluster."""

    claim_name: str = Field(pattern=NAME_PATTERN, max_length=253)
    """Name of the PersistentVolumeClaim."""


class Workers(Document):
    """Workers of a cascade: a pool of its own, or a part of a WorkerPool that several cascades share.

    An entry with ``pool`` says no more than ``max``; the rest comes from the WorkerPool (`of_pool`) and is not written.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.min <= self.max", "min is above max: lower min or raise max"),
            (
                "has(self.pool) || (has(self.name) && has(self.class))",
                "needs name and class, for a pool of its own, or pool, for a WorkerPool",
            ),
            (
                "!has(self.pool) || (!has(self.name) && !has(self.class) && self.min == 0"
                " && self.hosting == 'dedicated' && !has(self.budgetPerHour) && !has(self.modelCache)"
                " && !has(self.podTemplate))",
                "pool goes with max alone: the WorkerPool says the rest",
            ),
        ),
    )

    name: PoolName = ""
    """Name of a pool of the cascade's own, by which variants refer to it."""
    pool: PoolName | None = None
    """Name of a WorkerPool of the namespace, in place of a pool of its own; variants refer to it by this name."""
    accelerator_class: ClassName = Field(default="", alias="class")
    """Accelerator class of a pool of its own; two pools of a cascade cannot have the same one."""
    min: Count = 0
    """Fewest workers, even without load."""
    max: Count
    """Most workers, even while data is missing; of a WorkerPool, in workers' worth of work."""
    hosting: Hosting = Hosting.DEDICATED
    """`dedicated`: a worker hosts the weights of one variant; `shared`: of all variants, or of as many as its memory
    holds."""
    budget_per_hour: Money | None = None
    """The most that the workers may cost per hour, by the price of the class."""
    model_cache: ModelCache | None = None
    pod_template: PodTemplate = PodTemplate()

    @property
    def label(self) -> str:
        """The name by which variants refer to the pool."""
        return self.pool or self.name

    def of_pool(self, pool: WorkerPoolSpec) -> Workers:
        """The entry with what its WorkerPool says, except for bounds and budget, which are those of the whole pool."""
        return self.model_copy(
            update={
                "accelerator_class": pool.accelerator_class,
                "hosting": pool.hosting,
                "model_cache": pool.model_cache,
                "pod_template": pool.pod_template,
            }
        )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise field_error("min", f"{self.min} is above max ({self.max}): lower min or raise max")
        return self

    @model_validator(mode="after")
    def _own_or_shared(self) -> Self:
        if self.pool is None:
            for field, value in (("name", self.name), ("class", self.accelerator_class)):
                if not value:
                    raise field_error(field, "is required for a pool of its own; for a WorkerPool, write pool")
            return self
        for key, known in type(self).model_fields.items():
            if key not in ("pool", "max") and getattr(self, key) != known.default:
                raise field_error(known.alias or key, "goes with a pool of its own: the WorkerPool says it, remove it")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        whole: dict[str, Any] = write(self)
        return whole if self.pool is None else {key: whole[key] for key in ("pool", "max")}


class WorkerCount(Document):
    """The fewest and the most workers of a WorkerPool."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.min <= self.max", "min is above max: lower min or raise max")),
    )

    min: Count = 0
    """Fewest workers, even without load."""
    max: Count
    """Most workers, even while data is missing."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise field_error("min", f"{self.min} is above max ({self.max}): lower min or raise max")
        return self


class WorkerPoolSpec(Document):
    """What the workers of a shared pool are."""

    model_config = ConfigDict(json_schema_extra=rules(("self.class == oldSelf.class", f"class {CLASS_STAYS}")))

    accelerator_class: ClassName = Field(alias="class")
    """Accelerator class of the workers."""
    workers: WorkerCount
    hosting: Hosting = Hosting.SHARED
    """`shared`: a worker hosts as many weights as its memory holds, of all cascades of the pool; `dedicated`: one."""
    budget_per_hour: Money | None = None
    """The most that all workers may cost per hour, by the price of the class."""
    model_cache: ModelCache | None = None
    pod_template: PodTemplate = PodTemplate()


def pool_identity_problems(before: WorkerPoolSpec, after: WorkerPoolSpec) -> list[tuple[str, str]]:
    """The forbidden changes of an update, as (field, message); API servers that know CEL refuse it themselves.

    The profiles of all cascades of a pool are those of its class.
    """
    return [] if before.accelerator_class == after.accelerator_class else [("spec.class", CLASS_STAYS)]


class WorkerPool(Document):
    """Workers of one accelerator class that the cascades of a namespace share."""

    model_config = ConfigDict(title="WorkerPool")

    api_version: Literal["diffusioncascade.io/v1alpha1"] = API_VERSION
    kind: Literal["WorkerPool"] = "WorkerPool"
    metadata: Metadata
    spec: WorkerPoolSpec
    status: dict[str, Any] | None = None

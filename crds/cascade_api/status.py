"""The status that the operator reports of a cascade: conditions, pools and the plan in force."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Document
from .chains import Chained
from .openapi import keyed_by
from .reasons import ConditionType, Reason


class Condition(Document):
    """A Kubernetes condition."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str = Field(default="", max_length=1024)
    observed_generation: int = 0
    last_transition_time: str = ""


class PoolStatus(Document):
    """A summary of one pool."""

    name: str
    variant: str
    accelerator_class: str = Field(alias="class")
    desired: int
    ready: int
    batch: int


class QualityStatus(Document):
    """How the quality floor is held: by the last decision about workers, for the demand of that decision."""

    no_worse_than: str
    expected: str
    """Quality of the plan, in units of the objective metric."""
    held: bool
    all_heavy_workers: int | None = None
    """Workers that it would take to make every image by the best variant; absent: no variant is in time."""
    all_heavy_cost_per_hour: str | None = None
    """What these would cost."""


class CascadeStatus(Document, Chained):
    """Status of a DiffusionCascade; below 10 KB, written only when it changes."""

    observed_generation: int = 0
    conditions: list[Condition] = Field(default_factory=list, max_length=16, json_schema_extra=keyed_by("type"))
    chain: list[str] = Field(default_factory=list, max_length=2)
    direct_percent: int = 0
    """Percent of all prompts that go to the heavy variant at once."""
    escalated_percent: int = 0
    """Percent of all prompts that the heavy variant serves after a light image."""
    replicas: str = "0/0"
    pools: list[PoolStatus] = Field(default_factory=list, max_length=64, json_schema_extra=keyed_by("name"))
    plan_generation: int = 0
    plan_reason: Reason = Reason.INITIAL_PLAN
    cost_per_hour: str = "0"
    quality: QualityStatus | None = None
    """How `spec.objective.quality` is held; absent without a floor, and before the first decision."""

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)


class ProfileStatus(Document):
    """Status of a CascadeProfile."""

    observed_generation: int = 0
    conditions: list[Condition] = Field(default_factory=list, max_length=16, json_schema_extra=keyed_by("type"))


class PoolUser(Document):
    """A cascade on a WorkerPool, and its part of the workers' time."""

    name: str
    percent: int


class PoolWeights(Document):
    """Weights on a WorkerPool, by the variants that they serve, and how many workers have them ready."""

    variants: str = Field(max_length=256)
    workers: int


class WorkerPoolStatus(Document):
    """Status of a WorkerPool; below 10 KB, written only when it changes."""

    observed_generation: int = 0
    conditions: list[Condition] = Field(default_factory=list, max_length=16, json_schema_extra=keyed_by("type"))
    workers: str = "0/0"
    """Workers that are ready, of those that there shall be."""
    cascade_count: int = 0
    """How many cascades name it."""
    cascades: list[PoolUser] = Field(default_factory=list, max_length=64, json_schema_extra=keyed_by("name"))
    """The first of them, by name, with their parts of the workers' time; `division` says the same in words."""
    division: str = Field(default="", max_length=256)
    """Each cascade's part of the workers' time, as `portraits 60%, sketches 40%`.

    It is written again when a part has changed by ten points, or when the rest of the status changes.
    """
    weights: list[PoolWeights] = Field(default_factory=list, max_length=64, json_schema_extra=keyed_by("variants"))
    """What its workers host."""
    cost_per_hour: str = "0"

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)


def merge_conditions(old: list[Condition], new: list[Condition], *, now: str) -> list[Condition]:
    """The conditions ``new``; those whose status did not change keep their transition time from ``old``."""
    before = {c.type: c for c in old}
    merged = []
    for condition in new:
        was = before.get(condition.type)
        same = was is not None and was.status == condition.status
        time = was.last_transition_time if same and was is not None else now
        merged.append(condition.model_copy(update={"last_transition_time": time}))
    return merged

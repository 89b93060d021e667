"""The CascadeProfile resource: measured latency and quality that the planner chooses from (design 5.1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from .base import NAME_PATTERN, Document, Metadata, field_error
from .cascade import CascadeSpec
from .names import API_VERSION
from .quantities import Percent

MetricName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=32)]
Micros = Annotated[int, Field(ge=1, le=3_600_000_000)]


class ProfileSource(Document):
    """Where the figures come from."""

    kind: Literal["measured", "published", "estimated"]
    tool: str = Field(default="", max_length=128)
    time: str = Field(default="", max_length=32)
    prompts: int = Field(default=0, ge=0)


class Metric(Document):
    """A quality metric and its better direction."""

    name: MetricName
    direction: Literal["min", "max"]


class Execution(Document):
    """Time of one batch of a variant on a class, in a real Triton, without the discriminator."""

    variant: str = Field(pattern=NAME_PATTERN, max_length=40)
    accelerator_class: str = Field(alias="class", max_length=63)
    batch: int = Field(ge=1, le=256)
    p50_micros: Micros
    p95_micros: Micros
    memory_mi_b: int = Field(default=0, ge=0, alias="memoryMiB")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p95_micros < self.p50_micros:
            raise field_error("p95Micros", f"{self.p95_micros} is below p50Micros ({self.p50_micros}): measure again")
        return self


class DiscriminatorExecution(Document):
    """Time that the discriminator adds to one batch of the light stage."""

    accelerator_class: str = Field(alias="class", max_length=63)
    batch: int = Field(ge=1, le=256)
    p50_micros: Micros
    p95_micros: Micros


class Startup(Document):
    """How long a replica of a variant takes to come up, cold and by changing the model in place."""

    variant: str = Field(pattern=NAME_PATTERN, max_length=40)
    accelerator_class: str = Field(alias="class", max_length=63)
    cold_seconds: int = Field(ge=0, le=86_400)
    switch_millis: int = Field(ge=0, le=86_400_000)


class QualityRow(Document):
    """Quality of a chain at one (direct, escalation) pair, in thousandths of each metric."""

    light: str = Field(pattern=NAME_PATTERN, max_length=40)
    heavy: str = Field(pattern=NAME_PATTERN, max_length=40)
    direct_percent: Percent
    escalation_percent: Percent
    values_milli: dict[str, int] = Field(min_length=1, max_length=8)


class ScoreQuantiles(Document):
    """Distribution of the scores that the quality rows were cut at: 0 %, 5 %, …, 100 % quantiles, in thousandths.

    They seed a router's thresholds until it has seen enough scores of its own.
    """

    hardness_milli: list[int] = Field(default_factory=list, max_length=21)
    confidence_milli: dict[str, list[int]] = Field(default_factory=dict, max_length=8)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named = {"hardnessMilli": self.hardness_milli}
        named |= {f"confidenceMilli.{variant}": points for variant, points in self.confidence_milli.items()}
        for field, points in named.items():
            if points and (len(points) != 21 or points != sorted(points)):
                raise field_error(field, "must be 21 quantiles in rising order (0 %, 5 %, …, 100 %): profile again")
        return self


class ProfileSpec(Document):
    """All that was measured of a set of variants."""

    source: ProfileSource
    metrics: list[Metric] = Field(min_length=1, max_length=8)
    objective_metric: MetricName
    execution: list[Execution] = Field(min_length=1, max_length=512)
    discriminator: list[DiscriminatorExecution] = Field(default_factory=list, max_length=64)
    startup: list[Startup] = Field(default_factory=list, max_length=64)
    quality: list[QualityRow] = Field(min_length=1, max_length=8192)
    scores: ScoreQuantiles = ScoreQuantiles()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        metrics = {m.name for m in self.metrics}
        if self.objective_metric not in metrics:
            raise field_error("objectiveMetric", f"{self.objective_metric!r} is not among metrics {sorted(metrics)}")
        cells: set[tuple[str, str, int]] = set()
        for index, row in enumerate(self.execution):
            cell = (row.variant, row.accelerator_class, row.batch)
            if cell in cells:
                raise field_error(f"execution.{index}", f"{cell} is there twice: keep one measurement")
            cells.add(cell)
        for variant, accelerator_class, _ in cells:
            if (variant, accelerator_class, 1) not in cells:
                raise field_error("execution", f"{variant} on {accelerator_class} lacks a row for batch 1")
        seen: set[tuple[str, str, int, int]] = set()
        for index, quality in enumerate(self.quality):
            key = (quality.light, quality.heavy, quality.direct_percent, quality.escalation_percent)
            if key in seen:
                raise field_error(f"quality.{index}", f"{key} is there twice: keep one row")
            seen.add(key)
            if self.objective_metric not in quality.values_milli:
                raise field_error(
                    f"quality.{index}.valuesMilli", f"lacks the objective metric {self.objective_metric!r}"
                )
            if quality.light == quality.heavy:
                raise field_error(f"quality.{index}.heavy", "is the light variant too: a chain has two variants")
        return self

    @property
    def direction(self) -> Literal["min", "max"]:
        """Which way the objective metric is better."""
        return next(m.direction for m in self.metrics if m.name == self.objective_metric)


class CascadeProfile(Document):
    """A profile as a Kubernetes object."""

    model_config = ConfigDict(title="CascadeProfile")

    api_version: Literal["diffusioncascade.io/v1alpha1"] = API_VERSION
    kind: Literal["CascadeProfile"] = "CascadeProfile"
    metadata: Metadata
    spec: ProfileSpec
    status: dict[str, Any] | None = None


def profile_problems(cascade: CascadeSpec, profile: ProfileSpec) -> list[tuple[str, str]]:
    """What keeps a profile from serving a cascade, as (field of the cascade, message); empty when it fits."""
    problems: list[tuple[str, str]] = []
    measured = {(row.variant, row.accelerator_class) for row in profile.execution}
    for index, variant in enumerate(cascade.variants):
        usable = [c for c in variant.classes if cascade.capacity.accelerators.get(c, 0)]
        missing = [c for c in usable if (variant.name, c) not in measured]
        if missing:
            problems.append(
                (
                    f"spec.variants.{index}.name",
                    f"{variant.name!r} on class {missing[0]!r} is not in the profile's spec.execution: "
                    "profile it (cascade profile), or remove the variant or the class",
                )
            )
    names = {v.name for v in cascade.variants}
    if not any(row.light in names and row.heavy in names for row in profile.quality):
        problems.append(
            (
                "spec.profileRef",
                f"the profile's spec.quality has no chain of two of {sorted(names)}: profile it",
            )
        )
    return problems

"""The CascadeProfile resource: measured latency and quality that the planner chooses from (design 5.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from .base import NAME_PATTERN, Document, Metadata, field_error
from .cascade import CascadeSpec
from .chains import Chained, VariantName, refuse_twice
from .names import API_VERSION
from .openapi import keyed_by, refuse_repetition, rules
from .quantities import Integer, Percent, Size, pixels
from .variants import Weights

MetricName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=32)]
Micros = Annotated[Integer, Field(ge=1, le=3_600_000_000)]
Milli = Annotated[Integer, Field(ge=-(10**12), le=10**12)]
Quantiles = Annotated[list[Milli], Field(max_length=21)]


class ProfileSource(Document):
    """Where the figures come from."""

    kind: Literal["measured", "published", "estimated"]
    """How the figures were obtained."""
    tool: str = Field(default="", max_length=128)
    """Program and version that wrote the profile."""
    time: str = Field(default="", max_length=32)
    """Time of the measurement, as RFC 3339."""
    prompts: Integer = Field(default=0, ge=0, le=10**12)
    """Number of prompts for which quality was measured."""


class Metric(Document):
    """A quality metric and its direction."""

    name: MetricName
    """Name used in `valuesMilli`."""
    direction: Literal["min", "max"]
    """Whether smaller (`min`) or larger (`max`) values are better."""
    meaning: str | None = Field(default=None, max_length=256)
    """What it measures; for a distance between distributions also the features and the number of images."""


class Execution(Document):
    """Time of one batch of a variant at one size on a class, in a real Triton, without the discriminator."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.p95Micros >= self.p50Micros", "p95Micros is below p50Micros: measure again"))
    )

    variant: str = Field(pattern=NAME_PATTERN, max_length=40)
    """Name of the variant."""
    accelerator_class: str = Field(alias="class", max_length=63)
    """Accelerator class."""
    size: Size
    """Size of the images, width x height in pixels."""
    batch: Integer = Field(ge=1, le=256)
    """Images in the batch."""
    p50_micros: Micros
    """Median microseconds of one batch."""
    p95_micros: Micros
    """95th percentile of one batch in microseconds."""
    p99_micros: Micros | None = None
    """99th percentile of one batch in microseconds."""
    memory_mi_b: Integer = Field(default=0, ge=0, le=10**9, alias="memoryMiB")
    """Memory in use at this batch size, in MiB."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p95_micros < self.p50_micros:
            raise field_error("p95Micros", f"{self.p95_micros} is below p50Micros ({self.p50_micros}): measure again")
        return self


class DiscriminatorExecution(Document):
    """Time that the discriminator adds to one batch of the light stage."""

    accelerator_class: str = Field(alias="class", max_length=63)
    """Accelerator class."""
    batch: Integer = Field(ge=1, le=256)
    """Images in the batch."""
    p50_micros: Micros
    """Median microseconds added."""
    p95_micros: Micros
    """95th percentile of the microseconds added."""


class Startup(Document):
    """How long the weights of a variant take to start, on a new worker and on a running one.

    The times hold for all variants that share the weights.
    """

    variant: str = Field(pattern=NAME_PATTERN, max_length=40)
    """Name of the variant."""
    accelerator_class: str = Field(alias="class", max_length=63)
    """Accelerator class."""
    cold_seconds: Integer = Field(ge=0, le=86_400)
    """Seconds from nothing to ready."""
    load_millis: Integer = Field(ge=0, le=86_400_000)
    """Milliseconds to load these weights in place of another variant's on a running worker, until the first image."""


class MemoryComponent(Document):
    """A part of a model that other weights use too, such as a text encoder; a worker holds it once for all of them."""

    name: str = Field(pattern=NAME_PATTERN, max_length=63)
    """Name of the component; the same name is the same component."""
    memory_mi_b: Integer = Field(ge=1, le=10**9, alias="memoryMiB")
    """Memory that it takes, in MiB."""


class MemoryUse(Document):
    """How much memory the weights of a variant take on a worker.

    It holds for all variants that share the weights. What a worker needs is the sum over the weights that it hosts,
    with each of their components once, and for each weights the images that may be in flight at once.
    """

    variant: str = Field(pattern=NAME_PATTERN, max_length=40)
    """Name of the variant."""
    accelerator_class: str = Field(alias="class", max_length=63)
    """Accelerator class."""
    rest_mi_b: Integer = Field(ge=0, le=10**9, alias="restMiB")
    """Memory of the weights at rest, without shared components, in MiB."""
    image_mi_b: Integer = Field(default=0, ge=0, le=10**9, alias="imageMiB")
    """Memory that each image in flight takes on top, in MiB."""
    components: list[MemoryComponent] = Field(default_factory=list, max_length=8, json_schema_extra=keyed_by("name"))
    """Components that weights of other variants use too."""


class QualityRow(Document, Chained):
    """Quality of a chain, in thousandths of each metric; of two variants, at one (direct, escalation) pair."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.chain.size() < 2 || self.chain[0] != self.chain[1]",
                "chain passes a variant twice: name two variants, or one",
            ),
            (
                "has(self.directPercent) == (self.chain.size() == 2)"
                " && has(self.escalationPercent) == (self.chain.size() == 2)",
                "directPercent and escalationPercent belong to a chain of two variants, and to no other",
            ),
        )
    )

    chain: tuple[VariantName, ...] = Field(min_length=1, max_length=2)
    """The variants that a prompt may pass through, the cheaper one first; or one variant alone."""
    direct_percent: Percent | None = None
    """r: percent of prompts sent straight to the heavy variant; only for a chain of two."""
    escalation_percent: Percent | None = None
    """d: percent of the rest that escalates; only for a chain of two."""
    values_milli: dict[str, Milli] = Field(min_length=1, max_length=8)
    """Value of each metric, in thousandths."""
    errors_milli: dict[str, Milli] | None = Field(default=None, max_length=8)
    """Standard error of each value, in thousandths, by bootstrap over prompts."""

    @property
    def direct(self) -> float:
        """r as a share; 1 for a variant alone, which gets all prompts."""
        return 1.0 if self.direct_percent is None else self.direct_percent / 100

    @property
    def escalation(self) -> float:
        """d as a share; 0 for a variant alone."""
        return (self.escalation_percent or 0) / 100

    @model_validator(mode="after")
    def _chained(self) -> Self:
        refuse_twice("chain", self.chain)
        for field, percent in (
            ("directPercent", self.direct_percent),
            ("escalationPercent", self.escalation_percent),
        ):
            if self.alone and percent is not None:
                raise field_error(field, f"{self.light!r} is alone in its chain: leave it out")
            if not self.alone and percent is None:
                raise field_error(field, "is missing: a chain of two has it")
        return self


class ScoreQuantiles(Document):
    """Quantiles (0 %, 5 %, …, 100 %) of the scores from which the quality rows were computed, in thousandths.

    A router takes its thresholds from them until it has seen enough scores of its own.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.hardnessMilli) || (self.hardnessMilli.size() in [0, 21] && self.hardnessMilli.isSorted())",
                "hardnessMilli must be 21 quantiles in rising order (0 %, 5 %, …, 100 %): profile again",
            ),
            (
                "!has(self.confidenceMilli) || self.confidenceMilli.all(v,"
                " self.confidenceMilli[v].size() in [0, 21] && self.confidenceMilli[v].isSorted())",
                "confidenceMilli must be 21 quantiles in rising order (0 %, 5 %, …, 100 %): profile again",
            ),
        )
    )

    hardness_milli: Quantiles = Field(default_factory=list)
    """Quantiles of the prompts' hardness."""
    confidence_milli: dict[str, Quantiles] = Field(default_factory=dict, max_length=8)
    """Quantiles of the light images' confidence, by light variant."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named = {"hardnessMilli": self.hardness_milli}
        named |= {f"confidenceMilli.{variant}": points for variant, points in self.confidence_milli.items()}
        for field, points in named.items():
            if points and (len(points) != 21 or points != sorted(points)):
                raise field_error(field, "must be 21 quantiles in rising order (0 %, 5 %, …, 100 %): profile again")
        return self


class ProfileSpec(Document):
    """Everything that was measured about a set of variants."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.metrics.exists(m, m.name == self.objectiveMetric)",
                "objectiveMetric is not among metrics: add it there, or name one that is",
            ),
            (
                "self.execution.all(r, self.execution.exists(o,"
                " o.batch == 1 && o.variant == r.variant && o.class == r.class && o.size == r.size))",
                "execution lacks a row for batch 1 of a variant, class and size: profile it",
            ),
            (
                "self.quality.all(q, self.objectiveMetric in q.valuesMilli)",
                "a row of quality lacks the objective metric in valuesMilli: profile again",
            ),
        )
    )

    source: ProfileSource
    metrics: list[Metric] = Field(min_length=1, max_length=8, json_schema_extra=keyed_by("name"))
    objective_metric: MetricName
    """The metric that the planner maximises (or minimises, by its direction)."""
    execution: list[Execution] = Field(
        min_length=1, max_length=256, json_schema_extra=keyed_by("variant", "class", "size", "batch")
    )
    discriminator: list[DiscriminatorExecution] = Field(
        default_factory=list, max_length=64, json_schema_extra=keyed_by("class", "batch")
    )
    startup: list[Startup] = Field(default_factory=list, max_length=64, json_schema_extra=keyed_by("variant", "class"))
    memory: list[MemoryUse] = Field(default_factory=list, max_length=64, json_schema_extra=keyed_by("variant", "class"))
    quality: list[QualityRow] = Field(
        min_length=1,
        max_length=8192,
    )
    scores: ScoreQuantiles = ScoreQuantiles()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse_repetition("metrics", (m.name for m in self.metrics), fix="metric names must be unique")
        metrics = {m.name for m in self.metrics}
        if self.objective_metric not in metrics:
            raise field_error("objectiveMetric", f"{self.objective_metric!r} is not among metrics {sorted(metrics)}")
        cells = [(row.variant, row.accelerator_class, row.size, row.batch) for row in self.execution]
        refuse_repetition("execution", cells, fix="keep one measurement")
        measured = set(cells)
        for variant, accelerator_class, size, _ in cells:
            if (variant, accelerator_class, size, 1) not in measured:
                raise field_error("execution", f"{variant} at {size} on {accelerator_class} lacks a row for batch 1")
        judged = ((row.accelerator_class, row.batch) for row in self.discriminator)
        refuse_repetition("discriminator", judged, fix="keep one measurement")
        started = ((row.variant, row.accelerator_class) for row in self.startup)
        refuse_repetition("startup", started, fix="keep one measurement")
        held = ((row.variant, row.accelerator_class) for row in self.memory)
        refuse_repetition("memory", held, fix="keep one measurement")
        # An API server takes repeated rows: it cannot tell the items of a list apart by a list.
        points = ((q.path, q.direct_percent, q.escalation_percent) for q in self.quality)
        refuse_repetition("quality", points, fix="keep one row")
        for index, quality in enumerate(self.quality):
            if self.objective_metric not in quality.values_milli:
                raise field_error(
                    f"quality.{index}.valuesMilli", f"lacks the objective metric {self.objective_metric!r}"
                )
        return self

    def at(self, size: str) -> ProfileSpec:
        """The profile for images of one size, without the times of other sizes."""
        return self.model_copy(update={"execution": [row for row in self.execution if row.size == size]})

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether smaller or larger values of the objective metric are better."""
        return next(m.direction for m in self.metrics if m.name == self.objective_metric)


class CascadeProfile(Document):
    """A profile as a Kubernetes object."""

    model_config = ConfigDict(title="CascadeProfile")

    api_version: Literal["diffusioncascade.io/v1alpha1"] = API_VERSION
    kind: Literal["CascadeProfile"] = "CascadeProfile"
    metadata: Metadata
    spec: ProfileSpec
    status: dict[str, Any] | None = None


def profile_for(cascade: CascadeSpec, profile: ProfileSpec) -> ProfileSpec:
    """The profile for a cascade: times at its default size, starts and memory of all variants whose weights have them.

    Neither depends on settings. So a variant without a row in `startup` or `memory` takes the row of a variant that
    shares its weights. Memory includes what the manifest lets adapters of the weights take (`adapterMemoryMiB`), since
    a profile is measured without them, and is that of the largest size: images in flight take memory in proportion to
    their pixels.
    """
    adapters = _adapters_mib(cascade)
    at = profile.at(cascade.sizes[0])
    areas = [width * height for width, height in map(pixels, cascade.sizes)]
    memory = [
        row.model_copy(
            update={
                "rest_mi_b": row.rest_mi_b + adapters.get(row.variant, 0),
                "image_mi_b": math.ceil(row.image_mi_b * max(areas) / areas[0]),
            }
        )
        for row in _for_all(profile.memory, cascade)
    ]
    most: dict[tuple[str, str, int], int] = {}
    for row in (row for row in profile.execution if row.size in cascade.sizes):
        key = (row.variant, row.accelerator_class, row.batch)
        most[key] = max(row.memory_mi_b, most.get(key, 0))
    execution = [
        row.model_copy(
            update={"memory_mi_b": most[row.variant, row.accelerator_class, row.batch] + adapters.get(row.variant, 0)}
        )
        for row in at.execution
    ]
    rows = {"startup": _for_all(profile.startup, cascade), "memory": memory, "execution": execution}
    return at.model_copy(update=rows)


def _adapters_mib(cascade: CascadeSpec) -> dict[str, int]:
    """The memory that adapters may take, by variant: the most that any variant of its weights lets them take."""
    most: dict[Weights, int] = {}
    for variant in cascade.variants:
        most[variant.weights] = max(most.get(variant.weights, 0), variant.adapters_mib)
    return {variant.name: most[variant.weights] for variant in cascade.variants}


_OfWeights = TypeVar("_OfWeights", Startup, MemoryUse)


def _for_all(rows: Sequence[_OfWeights], cascade: CascadeSpec) -> list[_OfWeights]:
    """Rows with one more for each variant that has none, but shares the weights of one that has."""
    found = {(row.variant, row.accelerator_class): row for row in rows}
    weights = {variant.name: variant.weights for variant in cascade.variants}
    for row in rows:
        for name in (name for name, own in weights.items() if own == weights.get(row.variant)):
            found.setdefault((name, row.accelerator_class), row.model_copy(update={"variant": name}))
    return list(found.values())


def contradictions(profile: ProfileSpec) -> list[tuple[str, str]]:
    """Figures that cannot all be true, as (field of the profile, message); this finds mistaken units."""
    problems: list[tuple[str, str]] = []
    timed = {row.variant for row in profile.execution}
    for index, row in enumerate(profile.quality):
        for number, name in enumerate(row.chain):
            if name not in timed:
                problems.append(
                    (f"spec.quality.{index}.chain.{number}", f"{name!r} is not in spec.execution: unknown variant")
                )
    sizes: dict[tuple[str, str], int] = {}
    for index, use in enumerate(profile.memory):
        for number, part in enumerate(use.components):
            known = sizes.setdefault((part.name, use.accelerator_class), part.memory_mi_b)
            if part.memory_mi_b != known:
                problems.append(
                    (
                        f"spec.memory.{index}.components.{number}.memoryMiB",
                        f"{part.name!r} takes {part.memory_mi_b} MiB here and {known} MiB elsewhere on class "
                        f"{use.accelerator_class}: give it one size, or another name",
                    )
                )
    last: dict[tuple[str, str, str], int] = {}
    for index, cell in sorted(enumerate(profile.execution), key=lambda item: item[1].batch):
        key = (cell.variant, cell.accelerator_class, cell.size)
        if cell.p50_micros < last.get(key, 0):
            problems.append(
                (
                    f"spec.execution.{index}.p50Micros",
                    f"{cell.p50_micros} µs at batch {cell.batch} is less than a smaller batch takes "
                    f"({last[key]} µs): measure again, and mind the unit",
                )
            )
        last[key] = cell.p50_micros
    return problems


def profile_problems(cascade: CascadeSpec, profile: ProfileSpec) -> list[tuple[str, str]]:
    """Why a profile cannot be used for a cascade, as (field of the cascade, message); empty if it can."""
    problems: list[tuple[str, str]] = []
    measured = {(row.variant, row.accelerator_class, row.size) for row in profile.execution}
    for index, variant in enumerate(cascade.variants):
        wanted = ((c, number, size) for number, size in enumerate(cascade.sizes) for c in cascade.classes_of(variant))
        for on, number, size in wanted:
            if (variant.name, on, size) in measured:
                continue
            what = f"{variant.name!r} at {size} on class {on!r} is not in the profile's spec.execution: "
            if number:
                fix = f"profile it (cascade profile --sizes {size}), or remove the size"
                problems.append((f"spec.sizes.{number}", what + fix))
            else:
                fix = "profile it (cascade profile), remove the variant, or name its pools"
                problems.append((f"spec.variants.{index}.name", what + fix))
            break
    names = {v.name for v in cascade.variants}
    if not any(names.issuperset(row.chain) for row in profile.quality):
        problems.append(("spec.profileRef", f"the profile's spec.quality has no chain of {sorted(names)}: profile it"))
    return problems

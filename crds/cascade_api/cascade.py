"""The DiffusionCascade resource: objective, workers and variants that a user asks for (design 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from .base import NAME_PATTERN, Document, Metadata, field_error
from .names import API_VERSION, CPU_CLASS, CascadeRef
from .openapi import LIST_TYPE, as_set, at_most, keyed_by, refuse_repetition, rules
from .quantities import (
    LONGEST_SIDE,
    MOST_SIZES,
    OFFERED_PATTERN,
    Duration,
    Integer,
    MetricValue,
    Percent,
    Size,
    duration_s,
    longer,
    pixels,
)
from .variants import SOURCE_PATTERN, Discriminator, Engine, Precision, Variant, Weights
from .workers import WorkerPoolSpec, Workers

LONGEST_LATENCY = "1h"
LONGEST_IDLE = "720h"


def _label(pool: str) -> str:
    """In CEL, the name of a ``pool`` of `spec.workers`, by which variants refer to it; empty if it has none."""
    return f"(has({pool}.pool) ? {pool}.pool : has({pool}.name) ? {pool}.name : '')"


class QualityObjective(Document):
    """How good the images must be."""

    no_worse_than: MetricValue
    """The mean quality to hold at the least cost, in the objective metric's unit; for FID, the most that may be.

    It is text, such as `"24.50"`, or a whole number.
    """


class Objective(Document):
    """The end-to-end deadline of a request, the share of requests that must meet it, and a quality floor."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.latency.matches('[1-9]')", "latency must be above zero: write a duration such as 60s"),
            (
                at_most("self.latency", LONGEST_LATENCY),
                f"latency must be at most {LONGEST_LATENCY}: write a shorter duration such as 60s",
            ),
        )
    )

    latency: Duration
    """The end-to-end deadline of a request, at most 1h."""
    attainment_percent: Integer = Field(default=99, ge=1, le=100)
    """Percent of requests that must meet it."""
    quality: QualityObjective | None = None
    """A quality floor, which is held at the least cost; absent: the best quality that the accelerators allow."""

    @property
    def latency_s(self) -> float:
        return duration_s(self.latency)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.latency_s <= 0:
            raise field_error("latency", "must be above zero: write a duration such as 60s")
        if longer(self.latency, LONGEST_LATENCY):
            raise field_error("latency", f"must be at most {LONGEST_LATENCY}: write a shorter duration such as 60s")
        return self


class Reference(Document):
    """A resource in the same namespace."""

    name: str = Field(pattern=NAME_PATTERN, max_length=63)
    """Name of a resource in the same namespace."""


class Hardness(Document):
    """How prompts are scored before any image exists."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.scorer != 'learned' || has(self.source)", "scorer learned needs source: where its weights are"),
        )
    )

    scorer: Literal["rules", "learned", "coin-flip"] = "rules"
    """`rules`: fitted weights on features of the text; `learned`: a model from `source`; `coin-flip`: the baseline."""
    source: str | None = Field(default=None, pattern=SOURCE_PATTERN, max_length=253)
    """Weights of the `learned` scorer."""

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.scorer == "learned" and self.source is None:
            raise field_error("source", "scorer learned needs it: say where its weights are")
        return self


class PolicyName(str, Enum):
    """Policies that can decide; `hybrid` is the product's own, the others are baselines in the same code path."""

    ALL_LIGHT = "all-light"
    ALL_HEAVY = "all-heavy"
    PROTEUS = "proteus"
    DIFFSERVE = "diffserve"
    DIFFSERVE_STATIC = "diffserve-static"
    HADIS = "hadis"
    HADIS_JSQ = "hadis-jsq"
    HYBRID = "hybrid"


class Policy(Document):
    """How decisions are made and acted upon."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                f"!has(self.scaleToZeroAfter) || {at_most('self.scaleToZeroAfter', LONGEST_IDLE)}",
                f"scaleToZeroAfter must be at most {LONGEST_IDLE}: leave it out for never",
            ),
        )
    )

    name: PolicyName = PolicyName.HYBRID
    """The policy that decides; all except `hybrid` are baselines."""
    mode: Literal["auto", "advisory", "paused"] = "auto"
    """`auto` acts; `advisory` decides and reports, but changes nothing; `paused` keeps what runs."""
    overload: Literal["degrade", "strict"] = "degrade"
    """If escalating would miss the deadline, `degrade` answers with the light image, and `strict` refuses."""
    headroom_percent: Percent = 5
    """Capacity kept free, in percent of the forecast."""
    weight: Integer = Field(default=100, ge=1, le=10_000)
    """Weight of this cascade if several share accelerators."""
    scale_to_zero_after: Duration | None = None
    """Idle time after which all pools are stopped, at most 720h; absent: never."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.scale_to_zero_after is not None and longer(self.scale_to_zero_after, LONGEST_IDLE):
            raise field_error("scaleToZeroAfter", f"must be at most {LONGEST_IDLE}: leave it out for never")
        return self


class PoolMismatch(ValueError):
    """A spec does not fit the WorkerPools of its namespace; ``field`` is a dotted path below ``spec``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"spec.{field}: {message}")
        self.field = field
        self.message = message


class CascadeSpec(Document):
    """What the user asks for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.sizes == oldSelf.sizes",
                "sizes is immutable: make another cascade for other sizes",
            ),
            (
                f"self.sizes.all(s, s.matches('{OFFERED_PATTERN}'))",
                f"sizes has one with a side above {LONGEST_SIDE} pixels: write a smaller one, such as 1024x1024",
            ),
            (
                f"!has(self.objective.quality) || self.policy.name == '{PolicyName.HYBRID.value}'",
                "objective.quality needs policy hybrid, which alone plans for a floor: change policy.name or remove it",
            ),
            (
                "self.workers.exists(w, w.max > 0)",
                "workers admits nothing: give at least one pool a max above zero",
            ),
            (
                f"self.workers.all(w, self.workers.exists_one(o, {_label('o')} == {_label('w')}))",
                "workers has two pools of one name: rename one, or put them together",
            ),
            (
                "self.workers.all(w, !has(w.class) || self.workers.exists_one(o, has(o.class) && o.class == w.class))",
                "workers has two pools of one class: put them together",
            ),
            (
                f"self.variants.all(v, !has(v.pools) || v.pools.all(p, self.workers.exists(w, {_label('w')} == p)))",
                "a variant names a pool that workers does not have: add it there, or name another",
            ),
            (
                "self.variants.all(v, self.workers.exists(w,"
                f" w.max > 0 && (!has(v.pools) || {_label('w')} in v.pools)))",
                "a variant's pools admit no workers: raise the max of one, or name another pool",
            ),
            (
                "self.variants.all(v, v.engine != 'tensorrt' || !self.workers.exists(w,"
                f" has(w.class) && w.class == '{CPU_CLASS}' && (!has(v.pools) || {_label('w')} in v.pools)))",
                f"engine tensorrt does not run on class {CPU_CLASS}: name the variant's pools, or use onnxruntime",
            ),
            (
                "self.variants.all(v, !has(v.precision) || v.precision == 'fp32'"
                " || (v.precision == 'int8' && v.engine == 'onnxruntime') || !self.workers.exists(w,"
                f" has(w.class) && w.class == '{CPU_CLASS}' && (!has(v.pools) || {_label('w')} in v.pools)))",
                f"class {CPU_CLASS} computes in fp32, and with engine onnxruntime in int8: name the variant's pools, "
                "or remove its precision",
            ),
            (
                "self.variants.size() < 2 || has(self.discriminator) || self.variants.all(v, has(v.discriminator))",
                "discriminator is missing: of several variants it judges which image is good enough",
            ),
            (
                "self.variants.all(v, self.variants.all(o, v.model != o.model || v.engine != o.engine"
                " || has(v.precision) != has(o.precision) || (has(v.precision) && v.precision != o.precision)"
                " || (has(v.discriminator) == has(o.discriminator)"
                " && (!has(v.discriminator) || v.discriminator == o.discriminator))))",
                "variants of the same weights differ in their discriminator: give them the same, or none",
            ),
            (
                "self.variants.map(v, v.minHosts).sum() <= self.workers.map(w, w.max).sum()",
                "workers has fewer than the variants' minHosts together: raise max or lower minHosts",
            ),
        )
    )

    objective: Objective
    profile_ref: Reference
    workers: list[Workers] = Field(min_length=1, max_length=8, json_schema_extra={LIST_TYPE: "atomic"})
    """Where the variants run: pools of the cascade's own, and WorkerPools that it shares."""
    sizes: list[Size] = Field(min_length=1, max_length=MOST_SIZES, json_schema_extra=as_set())
    """The sizes of images that clients may ask for, width x height in pixels, such as `1024x1024`; the first is that of
    requests that name none."""
    variants: list[Variant] = Field(min_length=1, max_length=8, json_schema_extra=keyed_by("name"))
    hardness: Hardness = Hardness()
    discriminator: Discriminator | None = None
    """The discriminator of variants that name none; a cascade with one variant needs none."""
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._refuse_contradictions()
        return self

    def _refuse_contradictions(self) -> None:
        refuse_repetition("sizes", self.sizes, fix="a size is listed once")
        for index, size in enumerate(self.sizes):
            if max(pixels(size)) > LONGEST_SIDE:
                raise field_error(
                    f"sizes.{index}",
                    f"{size} has a side above {LONGEST_SIDE} pixels: write a smaller size, such as 1024x1024",
                )
        refuse_repetition("variants", (v.name for v in self.variants), fix="variant names must be unique")
        refuse_repetition("workers", (w.label for w in self.workers), fix="pool names must be unique")
        refuse_repetition(
            "workers",
            (w.accelerator_class for w in self.workers if w.accelerator_class),
            fix="put the pools of one class together",
        )
        if self.objective.quality is not None and self.policy.name is not PolicyName.HYBRID:
            raise field_error(
                "objective.quality",
                "needs policy hybrid, which alone plans for a floor: change policy.name or remove it",
            )
        if not any(w.max for w in self.workers):
            raise field_error("workers", "admits nothing: give at least one pool a max above zero")
        known = {w.label for w in self.workers}
        sharing: dict[Weights, Variant] = {}
        for index, variant in enumerate(self.variants):
            other = sharing.setdefault(variant.weights, variant)
            if variant.discriminator != other.discriminator:
                raise field_error(
                    f"variants.{index}.discriminator",
                    f"differs from that of {other.name!r}, which has the same weights: give both the same, or none",
                )
            for number, name in enumerate(variant.pools or ()):
                if name not in known:
                    raise field_error(
                        f"variants.{index}.pools.{number}",
                        f"{name!r} is not in spec.workers: add it there, or name one of {', '.join(sorted(known))}",
                    )
            pools = self.pools_of(variant)
            if not any(pool.max for pool in pools):
                raise field_error(
                    f"variants.{index}.pools", "its pools admit no workers: raise the max of one, or name another pool"
                )
            if all(pool.accelerator_class != CPU_CLASS for pool in pools):
                continue
            if variant.engine is Engine.TENSORRT:
                raise field_error(
                    f"variants.{index}.engine",
                    f"tensorrt does not run on class {CPU_CLASS}: name the variant's pools, or use onnxruntime",
                )
            quantised = variant.precision is Precision.INT8 and variant.engine is Engine.ONNXRUNTIME
            if variant.precision not in (None, Precision.FP32) and not quantised:
                raise field_error(
                    f"variants.{index}.precision",
                    f"class {CPU_CLASS} computes in fp32, and with engine onnxruntime in int8: "
                    "name the variant's pools, or remove it",
                )
        if len(self.variants) > 1 and self.discriminator is None and not all(v.discriminator for v in self.variants):
            raise field_error("discriminator", "is missing: of several variants it judges which image is good enough")
        least = sum(v.min_hosts for v in self.variants)
        if least > sum(w.max for w in self.workers):
            raise field_error(
                "workers", f"has fewer than the variants' minHosts together ({least}): raise max or lower minHosts"
            )

    @property
    def accelerators(self) -> dict[str, int]:
        """The most accelerators by class, without those of WorkerPools that are not known (`on_pools`)."""
        return {pool.accelerator_class: pool.max for pool in self.workers if pool.accelerator_class}

    def on_pools(self, pools: Mapping[str, WorkerPoolSpec]) -> Self:
        """The spec with what the WorkerPools of its namespace say, by name; raises PoolMismatch.

        What is written of it (`wire`) stays as it was.
        """
        workers = []
        for index, each in enumerate(self.workers):
            if each.pool is not None and each.pool not in pools:
                raise PoolMismatch(f"workers.{index}.pool", f"there is no WorkerPool {each.pool!r}: add it")
            workers.append(each if each.pool is None else each.of_pool(pools[each.pool]))
        found = self.model_copy(update={"workers": workers})
        try:
            found._refuse_contradictions()
        except PydanticCustomError as error:
            raise PoolMismatch(str((error.context or {}).get("field", "workers")), error.message()) from None
        return found

    def pools_of(self, variant: Variant) -> list[Workers]:
        """The pools that a variant may run in."""
        return [pool for pool in self.workers if variant.pools is None or pool.label in variant.pools]

    def classes_of(self, variant: Variant) -> tuple[str, ...]:
        """The classes of the workers that a variant may run on."""
        return tuple(pool.accelerator_class for pool in self.pools_of(variant) if pool.max and pool.accelerator_class)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels, of an image if the client names no size."""
        return pixels(self.sizes[0])

    def variant(self, name: str) -> Variant:
        """The variant of that name; raises KeyError if there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)

    def discriminator_of(self, variant: str) -> str | None:
        """The source of the discriminator for the images of ``variant``; None if it has none."""
        chosen = self.variant(variant).discriminator or self.discriminator
        return None if chosen is None else chosen.source


class DiffusionCascade(Document):
    """A cascade as a Kubernetes object."""

    model_config = ConfigDict(title="DiffusionCascade")

    api_version: Literal["diffusioncascade.io/v1alpha1"] = API_VERSION
    kind: Literal["DiffusionCascade"] = "DiffusionCascade"
    metadata: Metadata
    spec: CascadeSpec
    status: dict[str, Any] | None = None

    @property
    def ref(self) -> CascadeRef:
        return CascadeRef(self.metadata.namespace, self.metadata.name)


def identity_problems(before: CascadeSpec, after: CascadeSpec) -> list[tuple[str, str]]:
    """The forbidden changes of an update, as (field, message); empty if there are none.

    An update must not change the sizes of the images, weights and settings of variants that stay, nor what the name of
    an adapter means. API servers that know CEL refuse such an update themselves.
    """
    problems = []
    if before.sizes != after.sizes:
        problems.append(("spec.sizes", "is immutable: make another cascade for other sizes"))
    known = {variant.name: variant for variant in before.variants}
    for index, variant in enumerate(after.variants):
        was = known.get(variant.name, variant)
        for field in ("model", "settings", "engine", "precision"):
            if getattr(was, field) != getattr(variant, field):
                message = "is immutable: add a variant under a new name, then remove this one"
                problems.append((f"spec.variants.{index}.{field}", message))
        adapters = {adapter.name: adapter for adapter in was.adapters or ()}
        for number, adapter in enumerate(variant.adapters or ()):
            if adapters.get(adapter.name, adapter) != adapter:
                message = "what an adapter's name means is immutable: add an adapter under a new name"
                problems.append((f"spec.variants.{index}.adapters.{number}", message))
    return problems

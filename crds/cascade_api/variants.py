"""A variant of a cascade: its weights, its settings, and the adapters with which requests may draw (design 5.1)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from .base import NAME_PATTERN, Document, field_error
from .openapi import as_set, keyed_by, refuse_repetition, rules
from .quantities import Integer, Number, Percent
from .worker_requests import model_of_weights, settings_parameters
from .workers import PoolName

SOURCE_PATTERN = r"^(builtin|hf|file)://[A-Za-z0-9._/@:-]+$"
REVISION_PATTERN = r"^[A-Za-z0-9._-]+$"
ADAPTER_SOURCE_PATTERN = r"^(hf|file)://[A-Za-z0-9._/@:-]+$"
ADAPTER_FILE_PATTERN = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors$"
ADAPTER_SCALE_PATTERN = r"^[0-9](\.[0-9]{1,3})?$"
ADAPTER_MEMORY_MIB = 1024
"""What loaded adapters of one weights may take on a worker, if the manifest does not say."""
EDIT_STEPS = 2
"""Fewest steps of a variant that edits: the only step of one begins at noise, so that nothing is left of the image."""
EDITS_NEED_STEPS = f"needs at least {EDIT_STEPS} steps, or nothing is left of the given image: leave it out"


class Model(Document):
    """Where weights come from."""

    source: str = Field(pattern=SOURCE_PATTERN, max_length=253)
    """Where the weights come from: `builtin://shapes`, `hf://owner/repository` or `file:///path`."""
    revision: str = Field(pattern=REVISION_PATTERN, min_length=1, max_length=64)
    """Commit of the repository, or SHA-256 of built-in weights."""
    weights: str | None = Field(default=None, pattern=NAME_PATTERN, max_length=40)
    """Named weights of the source; for built-in models `heavy` or `light`."""


class GuidanceInterval(Document):
    """The part of the steps that are guided, in percent of all steps."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.fromPercent < self.toPercent", "fromPercent must be below toPercent: write such as 15 and 60"),
        )
    )

    from_percent: Percent
    """Guidance begins after this share of the steps."""
    to_percent: Percent
    """Guidance ends after this share of the steps."""

    @property
    def text(self) -> str:
        """The interval as a worker reads it."""
        return f"{self.from_percent}-{self.to_percent}"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.from_percent >= self.to_percent:
            raise field_error("fromPercent", "must be below toPercent: write such as 15 and 60")
        return self


class StepCache(Document):
    """What a step reuses of earlier steps, which saves time and changes the image."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.kind == 'first-block' ? has(self.threshold) && !has(self.interval)"
                " : has(self.interval) && !has(self.threshold)",
                "first-block has a threshold alone, and taylor-seer an interval: write only that one",
            ),
            (
                "!has(self.threshold) || self.threshold.matches('[1-9]')",
                "threshold must be above zero: write a number such as 0.08",
            ),
        )
    )

    kind: Literal["first-block", "taylor-seer"]
    """`first-block` computes only the first block of a step that changed little; `taylor-seer` continues the course of
    the attention between whole steps."""
    threshold: Number | None = None
    """Of `first-block`: the change of the first block, as a part of its size, up to which the others are reused, such
    as `"0.08"`."""
    interval: Integer | None = Field(default=None, ge=2, le=99)
    """Of `taylor-seer`: of so many steps, one is computed whole."""

    @property
    def text(self) -> str:
        """The step cache as a worker reads it."""
        return f"{self.kind}:{self.threshold or self.interval}"

    @model_validator(mode="after")
    def _measured(self) -> Self:
        wanted, other = ("threshold", "interval") if self.kind == "first-block" else ("interval", "threshold")
        if getattr(self, other) is not None or getattr(self, wanted) is None:
            raise field_error(wanted, f"is what {self.kind} has alone: write it, and no {other}")
        if self.threshold is not None and not float(self.threshold):
            raise field_error("threshold", "must be above zero: write a number such as 0.08")
        return self


class ImageSettings(Document):
    """How images are made; variants of the same weights may differ only in these settings."""

    steps: Integer = Field(ge=1, le=1000)
    """Denoising steps."""
    guidance: Number | None = None
    """Scale of classifier-free guidance, such as `"4.5"`; absent: the model's own."""
    guidance_interval: GuidanceInterval | None = None
    """The part of the steps that are guided; absent: all. Only the built-in models can do without."""
    step_cache: StepCache | None = None
    """What a step reuses of earlier steps; absent: nothing. Needs engine `diffusers`, and a model that can."""

    @property
    def interval(self) -> str | None:
        """The part of the steps that are guided, as a worker reads it."""
        return None if self.guidance_interval is None else self.guidance_interval.text

    @property
    def cache(self) -> str | None:
        """What a step reuses of earlier steps, as a worker reads it."""
        return None if self.step_cache is None else self.step_cache.text

    @property
    def parameters(self) -> dict[str, int | str]:
        """What a request to the Triton model says of them."""
        return settings_parameters(self.steps, self.guidance, self.interval, self.cache)


class Adapter(Document):
    """A LoRA adapter, which requests choose by its name; what a name means is immutable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.scale.matches('[1-9]')", "scale must be above zero: write a number such as 0.8"),
            ("self == oldSelf", "what an adapter's name means is immutable: add an adapter under a new name"),
        )
    )

    name: str = Field(pattern=NAME_PATTERN, max_length=40)
    """By which requests choose it; other variants may have other adapters of this name."""
    source: str = Field(pattern=ADAPTER_SOURCE_PATTERN, max_length=253)
    """Where its file comes from: `hf://owner/repository` or `file:///path`."""
    revision: str = Field(pattern=REVISION_PATTERN, min_length=1, max_length=64)
    """Commit of the repository, or SHA-256 of the folder."""
    weight_name: str | None = Field(default=None, pattern=ADAPTER_FILE_PATTERN, max_length=120)
    """Its file, in safetensors; absent: the only such file of the source."""
    scale: str = Field(default="1", pattern=ADAPTER_SCALE_PATTERN, max_length=5)
    """How strongly it is applied, above 0 and below 10, such as `"0.8"`."""

    @property
    def digest(self) -> str:
        """A short name of what it means, the same everywhere, by which workers are asked for it."""
        parts = (self.source, self.revision, self.weight_name, float(self.scale))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not float(self.scale):
            raise field_error("scale", "must be above zero: write a number such as 0.8")
        return self


class Engine(str, Enum):
    """What runs a variant's denoiser."""

    DIFFUSERS = "diffusers"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


class Precision(str, Enum):
    """Number format of a variant's weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class Weights:
    """The identity of what takes memory on a worker; variants that agree in all fields share their weights."""

    source: str
    revision: str
    part: str | None
    engine: Engine
    precision: Precision | None

    @property
    def digest(self) -> str:
        """A short name of the weights, the same everywhere."""
        parts = (self.source, self.revision, self.part, self.engine.value, self.precision and self.precision.value)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def model(self) -> str:
        """The Triton model that has them."""
        return model_of_weights(self.digest)


class Discriminator(Document):
    """The model that judges a light image."""

    source: str = Field(pattern=SOURCE_PATTERN, max_length=253)
    """Where the discriminator comes from, as for models."""


class Variant(Document):
    """Weights and settings that turn a prompt into an image; immutable once served."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.model == oldSelf.model && self.settings == oldSelf.settings && self.engine == oldSelf.engine"
                " && has(self.precision) == has(oldSelf.precision)"
                " && (!has(self.precision) || self.precision == oldSelf.precision)",
                "a variant's model, settings, engine and precision are immutable: "
                "add a variant under a new name, then remove this one",
            ),
            (
                "!has(self.settings.stepCache) || self.engine == 'diffusers'",
                "settings.stepCache needs engine diffusers: write that, or leave it out",
            ),
            (
                "!has(self.precision) || self.precision != 'int8' || self.engine != 'tensorrt'",
                "engine tensorrt does not compute in int8: use diffusers, or another precision",
            ),
            (
                "!has(self.adapters) || (self.engine == 'diffusers' && !self.model.source.startsWith('builtin://'))",
                "only public models with engine diffusers take adapters: remove them, or change the engine",
            ),
            (
                "!has(self.adapters) || !has(self.precision) || self.precision != 'int8'",
                "weights in int8 take no adapters: remove them, or choose another precision",
            ),
            (
                f"!has(self.edits) || !self.edits || self.settings.steps >= {EDIT_STEPS}",
                f"edits: {EDITS_NEED_STEPS}",
            ),
        )
    )

    name: str = Field(pattern=NAME_PATTERN, max_length=40)
    """Name of the variant."""
    model: Model
    settings: ImageSettings
    engine: Engine
    precision: Precision | None = None
    """Number format of the weights; absent: the catalogue's, and `fp32` on class `cpu`. With `int8` the
    denoiser's linear layers are computed in 8 bits, by engine `diffusers` on a GPU or `onnxruntime` on a CPU."""
    pools: list[PoolName] | None = Field(default=None, min_length=1, max_length=8, json_schema_extra=as_set())
    """Pools of `spec.workers` in which it may run; absent: all."""
    min_hosts: Integer = Field(default=0, ge=0, le=1024)
    """Fewest workers that host its weights, even without load."""
    discriminator: Discriminator | None = None
    adapters: list[Adapter] | None = Field(
        default=None, min_length=1, max_length=16, json_schema_extra=keyed_by("name")
    )
    """LoRA adapters that requests may choose; they may be added and removed at any time. Only engine `diffusers`."""
    adapter_memory_mi_b: Integer | None = Field(default=None, ge=1, le=1_048_576)
    """What loaded adapters of its weights may take on a worker, in MiB; absent: 1024. The planner reserves it."""
    edits: bool | None = None
    """Whether requests may give an image that it changes; may be switched at any time. It needs a pipeline with
    image-to-image and inpainting, and two steps or more; absent: false."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse_repetition("pools", self.pools or (), fix="name a pool once")
        if self.settings.step_cache is not None and self.engine is not Engine.DIFFUSERS:
            raise field_error("settings.stepCache", "needs engine diffusers: write that, or leave it out")
        if self.precision is Precision.INT8 and self.engine is Engine.TENSORRT:
            raise field_error(
                "precision", "engine tensorrt does not compute in int8: use diffusers, or another precision"
            )
        refuse_repetition("adapters", (a.name for a in self.adapters or ()), fix="adapter names must be unique")
        if self.adapters and self.engine is not Engine.DIFFUSERS:
            raise field_error(
                "adapters", f"engine {self.engine.value} cannot apply them: use engine diffusers, or remove them"
            )
        if self.adapters and self.model.source.startswith("builtin://"):
            raise field_error("adapters", f"{self.model.source} takes none: remove them")
        if self.adapters and self.precision is Precision.INT8:
            raise field_error("adapters", "weights in int8 take none: remove them, or choose another precision")
        if self.edits and self.settings.steps < EDIT_STEPS:
            raise field_error("edits", EDITS_NEED_STEPS)
        return self

    @property
    def adapters_mib(self) -> int:
        """Memory that adapters may take on each worker that hosts its weights, in MiB."""
        return (self.adapter_memory_mi_b or ADAPTER_MEMORY_MIB) if self.adapters else 0

    @property
    def weights(self) -> Weights:
        """The weights that it needs."""
        return Weights(self.model.source, self.model.revision, self.model.weights, self.engine, self.precision)

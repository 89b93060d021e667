"""The recipe of a Triton model, which describes its weights, and the settings of a request.

The recipe is written into `config.pbtxt` as parameters, and read when the model loads. Settings are sent with each
request.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

_DECIMAL: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")

_INTERVAL_OF_STEPS: Final = re.compile(r"[1-9][0-9]?")

_SIZE: Final = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")

_INTERVAL: Final = re.compile(r"([0-9]{1,2})-([0-9]{1,3})")

FIRST_BLOCK: Final = "first-block"
TAYLOR_SEER: Final = "taylor-seer"
STEP_CACHES: Final = (FIRST_BLOCK, TAYLOR_SEER)
"""The kinds of step caches; `pipelines.step_caching` says what they do."""
WARM_UP: Final = 3
"""Steps that taylor-seer computes whole, before it predicts any."""

INT8: Final = "int8"
"""The precision of quantised weights: a denoiser's matrix products are computed in 8 bits."""
DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Number format by its name in a manifest; with int8 it is the catalogue's, since only matrix products are in int8."""
PRECISIONS: Final = (*DTYPES, INT8)
"""What a manifest may write as precision."""

BUILTIN: Final = "builtin://"
HUB: Final = "hf://"
FILE: Final = "file://"

_NESTED: Final = ("settings", "assembly", "adapters", "sizes")

_PARAMETER: Final = re.compile(
    r'^parameters \{ key: ("\w+") value \{ string_value: ("(?:[^"\\]|\\.)*") \} \}$', re.MULTILINE
)

ADAPTER_MEMORY_MIB: Final = 1024
"""What loaded adapters of one weights may take, if a manifest does not say; `cascade_api.variants` has the same."""

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
"""A commit, which is what a manifest must pin: branches and tags can move."""


class RecipeError(ValueError):
    """A recipe cannot be used; ``key`` names the part that is wrong, and the message ends with what to do."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def pixels_of(size: str) -> tuple[int, int]:
    """Width and height of a size such as ``1024x768``; raises ValueError for any other text."""
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ValueError(f"{size!r:.60} is not a size; write width and height in pixels, such as 1024x768")
    return int(found[1]), int(found[2])


def is_interval(text: str) -> bool:
    """Whether a text is a part of the steps in percent, such as ``15-60``: the first number is less than the second."""
    found = _INTERVAL.fullmatch(text)
    return found is not None and int(found[1]) < int(found[2]) <= 100


def is_step_cache(text: str) -> bool:
    """Whether a text is a step cache: its kind with its threshold or interval, as ``first-block:0.08``."""
    kind, _, amount = text.partition(":")
    if kind == FIRST_BLOCK:
        return _DECIMAL.fullmatch(amount) is not None and float(amount) > 0
    return kind == TAYLOR_SEER and _INTERVAL_OF_STEPS.fullmatch(amount) is not None and int(amount) > 1


@dataclass(frozen=True)
class Settings:
    """The settings in which requests to the same weights may differ.

    Attributes:
        guidance: scale of classifier-free guidance; None: the model's own.
        guidance_interval: the part of the steps that are guided, such as ``15-60``: those before which at least 15 %
            and less than 60 % of the steps have been made. Empty: all.
        step_cache: what is reused from step to step, such as ``first-block:0.08``; see `is_step_cache`. Empty: nothing.
        lora: digest of the adapter with which images are drawn; empty: none.
        size: width and height of the images, such as ``1024x768``; empty: the recipe's own.
        strength: the part of the way to noise from which a given image is drawn anew; None: no image is given.
        masked: whether parts of the given image are kept.
    """

    steps: int
    guidance: float | None = None
    guidance_interval: str = ""
    step_cache: str = ""
    lora: str = ""
    size: str = ""
    strength: float | None = None
    masked: bool = False

    @property
    def made_steps(self) -> int:
        """How many of the steps are made: an edit begins on the way."""
        return self.steps if self.strength is None else max(1, math.ceil(self.steps * self.strength - 1e-6))

    @property
    def image_work(self) -> int:
        """What an image takes, to be compared with others of the same weights: the steps made times its pixels."""
        width, height = pixels_of(self.size) if self.size else (1, 1)
        return self.made_steps * width * height

    def guides(self, step: int) -> bool:
        """Whether a step, from 0 on, is in the interval of guidance."""
        if not self.guidance_interval:
            return True
        low, high = map(int, self.guidance_interval.split("-"))
        return low * self.steps <= 100 * step < high * self.steps

    @property
    def guided_steps(self) -> int:
        """How many steps are in the interval of guidance."""
        return sum(map(self.guides, range(self.steps)))

    @property
    def saves_steps(self) -> bool:
        """Whether there is a step that its step cache may save."""
        least = WARM_UP if self.step_cache.startswith(TAYLOR_SEER) else 1
        return bool(self.step_cache) and self.steps > least

    def parameters(self) -> dict[str, int | str]:
        """The settings as parameters of a request."""
        found: dict[str, int | str] = {"steps": self.steps}
        if self.guidance is not None:
            found["guidance"] = f"{self.guidance:.3f}"
        if self.guidance_interval:
            found["guidance_interval"] = self.guidance_interval
        if self.step_cache:
            found["step_cache"] = self.step_cache
        if self.lora:
            found["lora"] = self.lora
        if self.size:
            found["size"] = self.size
        if self.strength is not None:
            found["strength"] = f"{self.strength:.3f}"
        return found

    @classmethod
    def read(cls, parameters: Mapping[str, object], default: Settings) -> Settings:
        """The settings in a request's parameters; raises ValueError, which names the parameter."""
        steps, guidance = parameters.get("steps", default.steps), parameters.get("guidance")
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise ValueError(f"steps: {steps!r:.60} is not a number of steps; write a whole number")
        interval = parameters.get("guidance_interval", "")
        if not isinstance(interval, str) or (interval and not is_interval(interval)):
            raise ValueError(f"guidance_interval: {interval!r:.60} is not a part of the steps; write one such as 15-60")
        cache = parameters.get("step_cache", "")
        if not isinstance(cache, str) or (cache and not is_step_cache(cache)):
            raise ValueError(
                f"step_cache: {cache!r:.60} is not a step cache; "
                f"write one such as {FIRST_BLOCK}:0.08 or {TAYLOR_SEER}:3"
            )
        lora = parameters.get("lora", "")
        if not isinstance(lora, str):
            raise ValueError(f"lora: {lora!r:.60} is not an adapter; write the digest of one")
        size = parameters.get("size", default.size)
        if not isinstance(size, str):
            raise ValueError(f"size: {size!r:.60} is not a size; write width and height in pixels, such as 1024x768")
        strength = _strength(parameters.get("strength"))
        if guidance is None:
            return cls(steps, default.guidance, interval, cache, lora, size, strength)
        if not (isinstance(guidance, str) and _DECIMAL.fullmatch(guidance)):
            raise ValueError(f'guidance: {guidance!r:.60} is not a scale; write a number as text, such as "4.5"')
        return cls(steps, float(guidance), interval, cache, lora, size, strength)


def _strength(text: object) -> float | None:
    if text is None:
        return None
    if not (isinstance(text, str) and _DECIMAL.fullmatch(text) and 0 < float(text) <= 1):
        raise ValueError(f'strength: {text!r:.60} is not above 0 and at most 1; write a number as text, such as "0.6"')
    return float(text)


@dataclass(frozen=True)
class SettingsSpace:
    """The settings of some weights that are worth trying: every number of steps with every scale and part of
    guidance and every step cache.

    Attributes:
        guidance: scales of classifier-free guidance. 1 is none, which takes half of the time; None: the model's own.
        intervals: parts of the steps that are guided, see `Settings`; empty: all steps.
        step_caches: see `Settings`; empty: none.
        precisions: other number formats in which the same weights are worth trying, with all of these settings.
    """

    steps: tuple[int, ...]
    guidance: tuple[float | None, ...] = (None,)
    intervals: tuple[str, ...] = ("",)
    step_caches: tuple[str, ...] = ("",)
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter; ``file`` is empty if it is the only safetensors file of its source."""

    source: str
    revision: str
    file: str
    scale: float

    @property
    def digest(self) -> str:
        """A short name of it; the other components compute the same in `cascade_api.variants.Adapter`."""
        parts = (self.source, self.revision, self.file or None, self.scale)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Assembly:
    """How a diffusers pipeline is assembled and called; without a value, the model's own applies.

    Attributes:
        pipeline: class of the pipeline.
        dtype: number format on an accelerator; on the CPU it is always float32.
        guidance: scale of classifier-free guidance of requests that give none.
        base: source of all parts except the denoiser, if the model's own source only has the denoiser.
        base_revision: commit of the base.
        denoiser: with a base, the file with the denoiser's weights; ``{weights}`` stands for the name of the weights.
        steps: the number of steps, if the denoiser works only with one.
        scheduler: class of the scheduler, as ``class``, and changes to its configuration.
        arguments: further arguments for the pipeline's call.
    """

    pipeline: str = ""
    dtype: str = "bfloat16"
    guidance: float | None = None
    base: str = ""
    base_revision: str = ""
    denoiser: str = ""
    steps: int | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a Triton model makes images with its weights, and judges them.

    Attributes:
        weights: name of the weights in the source; empty if it has only one.
        height: of images whose request names no size, as ``width``.
        sizes: what requests may name, such as ``1024x768``; empty: only that size.
        precision: number format by its name in a manifest; empty if the catalogue decides.
        discriminator: its source; empty if images are not judged.
        batch: the largest batch that the model must accept.
        settings: the settings of the variants that these weights serve, by the variant's name.
        adapters: by digest, those that requests to any of these variants may name.
        adapter_memory_mib: what loaded adapters may take.
        edits: whether requests may give an image.
    """

    source: str
    revision: str
    weights: str
    engine: str
    precision: str
    height: int
    width: int
    discriminator: str
    batch: int
    settings: Mapping[str, Settings]
    assembly: Assembly = Assembly()
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    adapter_memory_mib: int = ADAPTER_MEMORY_MIB
    sizes: Sequence[str] = ()
    edits: bool = False

    @property
    def default(self) -> Settings:
        """The settings of requests that give none: the fewest steps of any variant, and the model's own guidance."""
        steps = min(each.steps for each in self.settings.values())
        return Settings(steps, self.assembly.guidance, size=self.offered[0])

    @property
    def offered(self) -> tuple[str, ...]:
        """The sizes that requests may name, the default first."""
        return tuple(self.sizes) or (f"{self.width}x{self.height}",)

    def pixels(self, settings: Settings) -> tuple[int, int]:
        """Width and height of the images of a request."""
        return pixels_of(settings.size) if settings.size else (self.width, self.height)

    def parameters(self) -> dict[str, str]:
        """The recipe as text by key, since the parameters of a Triton model can only be text."""
        whole = asdict(self)
        texts = {key: str(value) for key, value in whole.items()}
        return {**texts, **{key: json.dumps(whole[key], sort_keys=True) for key in _NESTED}}

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, str]) -> Recipe:
        """The inverse of `parameters`; raises KeyError if one is missing."""
        texts = {part.name: parameters[part.name] for part in fields(cls)}
        numbers = {key: int(texts.pop(key)) for key in ("height", "width", "batch", "adapter_memory_mib")}
        edits = texts.pop("edits") == "True"
        settings, assembly, adapters, sizes = (json.loads(texts.pop(key)) for key in _NESTED)
        return cls(
            **texts,  # type: ignore[arg-type]
            **numbers,  # type: ignore[arg-type]
            settings={variant: Settings(**values) for variant, values in settings.items()},
            assembly=Assembly(**assembly),
            adapters={digest: Adapter(**values) for digest, values in adapters.items()},
            sizes=tuple(sizes),
            edits=edits,
        )

    @classmethod
    def in_config(cls, text: str) -> Recipe:
        """The recipe in a `config.pbtxt` of `repository.config`; raises KeyError or ValueError if there is none."""
        return cls.of_parameters({json.loads(key): json.loads(value) for key, value in _PARAMETER.findall(text)})

"""A diffusers pipeline as this package serves it: one run for a batch of prompts, a seed for each, watched by step.

A pipeline of diffusers is not thread-safe and keeps state in itself and in its scheduler. So every run gets a copy of
the pipeline, which shares the networks, and a scheduler of its own; another run may be made between two of its steps.
An image is drawn from its own seed's noise, made on the CPU, whatever the device and the company in its batch. Images
that nobody waits for any more are drawn to the end with the others of their batch (engines may be built for its size);
a batch that nobody waits for ends before its next step.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import diffusers
import numpy as np
import numpy.typing as npt
import torch
import transformers
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from cascade_models import discriminators, weights
from cascade_models.engines import EngineError, OutOfMemory, denoisers, is_out_of_memory
from cascade_models.engines.diffusers import quantise
from cascade_models.pipelines import decoding, diffusion_files, editing, step_caching
from cascade_models.pipelines.adapter_files import AdapterFiles
from cascade_models.pipelines.adapters import Adapters
from cascade_models.pipelines.pipeline import AdapterError, Given, kept
from cascade_models.recipe import FILE, HUB, INT8, WARM_UP, Recipe, RecipeError, Settings

if TYPE_CHECKING:
    from cascade_models.pipelines.pipeline import Poll, Preview

Prompt = tuple[str, str]

EXAMPLE: Final = "a large red circle"
GUIDANCE: Final = ("guidance_scale", "true_cfg_scale")
"""What pipelines call the scale of guidance. One may have both, and then the first without a value is not in use."""
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class _Abandoned(Exception):
    """Nobody waits for any image of the batch."""


class DiffusionPipeline:
    """Weights and their discriminator."""

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._recipe = recipe
        # Some decoders are too coarse for float16: pipelines make them wider for a while.
        self._vae_dtype = pipe.vae.dtype
        self._scheduler = type(pipe.scheduler), dict(pipe.scheduler.config)
        known = inspect.signature(type(pipe).__call__).parameters
        self._arguments: dict[str, Any] = {
            **recipe.assembly.arguments,
            "output_type": "pt",
        }
        self._guidance_name = next((name for name in GUIDANCE if name in known and known[name].default is not None), "")
        self._own_guidance = known[self._guidance_name].default if self._guidance_name else None
        if self._own_guidance is None and any(each.guidance is not None for each in recipe.settings.values()):
            raise RecipeError("guidance", f"{type(pipe).__name__} knows no guidance: leave it out")
        self._knows_negatives = "negative_prompt" in known
        longest = recipe.assembly.arguments.get("max_sequence_length")
        if longest is None and "max_sequence_length" in known:
            longest = known["max_sequence_length"].default
        self._readers = _readers(pipe, longest)
        self._editors = editing.editors(pipe) if recipe.edits else {}
        self._adapter_files = AdapterFiles()
        self._adapters = Adapters(pipe, denoisers.of(pipe), self._adapter_files)
        self.follow(recipe)
        judge = recipe.discriminator
        self._discriminator = discriminators.load(judge, _discriminator_folder(judge)) if judge else None

    def read(self, prompt: str, negative_prompt: str) -> Prompt:
        """The prompts as they are; raises ValueError for an empty one."""
        if not prompt.strip():
            raise ValueError("prompt: is empty; write what the image should show")
        return prompt, negative_prompt

    def tokens(self, prompt: Prompt) -> tuple[int, int]:
        """The tokens of the tokenizer that reads most; where a model has several, the others may cut more."""
        if not self._readers:
            return 0, 0
        tokenizer, most = self._readers[-1]
        given = len(tokenizer(prompt[0], truncation=False, verbose=False).input_ids)
        return given, min(given, most)

    def follow(self, recipe: Recipe) -> None:
        """Offer the adapters of a recipe, fetched where they are missing."""
        if self._adapters.takes_any:
            self._adapter_files.offer(recipe.adapters, limit_mib=recipe.adapter_memory_mib)

    def check_adapter(self, lora: str) -> None:
        """Raises AdapterError unless there is an adapter of this digest, and nothing is known to be wrong with it."""
        if not self._adapters.takes_any:
            raise AdapterError(f"lora: {type(self._pipe).__name__} takes no adapters; leave it out")
        self._adapter_files.find(lora)

    def generate(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        settings: Settings,
        poll: Poll | None,
        preview: Preview | None = None,
        given: Sequence[Given] = (),
    ) -> npt.NDArray[np.uint8]:
        """Images ``[B, height, width, 3]``; raises OutOfMemory where the batch does not fit, or AdapterError."""
        wanted = [True] * len(prompts)
        width, height = self._recipe.pixels(settings)

        def between(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step + 1 < getattr(pipe, "num_timesteps", settings.steps):
                if preview is not None:
                    preview(step, lambda: self._shown(pipe, guesses.last, width, height))
                _ask(poll, step + 1, wanted)
                # Another run may have been made meanwhile.
                self._adapters.apply(settings.lora)
            return tensors

        pipe = copy.copy(self._editors[settings.masked] if given else self._pipe)
        pipe.scheduler, guesses = self._fresh_scheduler()
        named: dict[str, Any] = {"num_inference_steps": settings.steps}
        if settings.guidance is not None:
            named[self._guidance_name] = settings.guidance
        # Without classifier-free guidance there is nothing that a negative prompt could push away from.
        if self._knows_negatives and self._guidance(settings) > 1:
            named["negative_prompt"] = [negative for _, negative in prompts]
        named |= editing.arguments(given, settings) if given else {}
        known = inspect.signature(type(pipe).__call__).parameters
        named |= {
            name: value
            for name, value in {"width": width, "height": height, **self._arguments}.items()
            if name in known
        }
        try:
            _ask(poll, 0, wanted)
            self._adapters.apply(settings.lora)
            with torch.inference_mode(), self._keeping(pipe, settings):
                made = pipe(
                    prompt=[prompt for prompt, _ in prompts],
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                    callback_on_step_end=between,
                    **named,
                )
                images = _bytes(made[0] if isinstance(made, tuple) else made.images)
        except _Abandoned:
            return np.zeros((len(prompts), height, width, 3), dtype=np.uint8)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._recover()
            raise OutOfMemory(f"out of memory at batch size {len(prompts)}") from error
        if given:
            images = kept(images, given)
        images[~np.array(wanted)] = 0
        return images

    def _keeping(self, pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        """While this lasts, a run's pipeline has the step cache of its settings; its adapter has been applied."""
        if not settings.step_cache:
            return nullcontext()
        own = step_caching.of_run(denoisers.of(pipe), settings.step_cache)
        setattr(pipe, denoisers.name_of(pipe), own)
        # For pipelines that do not say themselves in which pass they are; those that have two say it.
        keeping: AbstractContextManager[None] = own.cache_context("run")
        return keeping

    def judge(self, images: npt.NDArray[np.uint8], prompts: Sequence[Prompt]) -> npt.NDArray[np.float32]:
        """Confidence ``[B]`` by the discriminator; 1 where there is none."""
        if self._discriminator is None:
            return np.ones(len(images), dtype=np.float32)
        return self._discriminator.confidence(images, [prompt for prompt, _ in prompts])

    def begin(self, batch: int) -> None:
        """Draw a batch, however far: engines watch how the denoiser is called.

        With the most guidance of all variants, which has it called for twice as many images.
        """
        guided = max(self._recipe.settings.values(), key=self._guidance)
        self.generate([(EXAMPLE, "")] * batch, list(range(batch)), guided, None)

    def _guidance(self, settings: Settings) -> float:
        return (self._own_guidance or 0.0) if settings.guidance is None else settings.guidance

    def _fresh_scheduler(self) -> tuple[Any, _Guesses]:
        kind, configuration = self._scheduler
        scheduler = kind.from_config(configuration)
        return scheduler, _Guesses(scheduler)

    def _shown(self, pipe: Any, latents: torch.Tensor, width: int, height: int) -> npt.NDArray[np.uint8]:
        """The picture in a run's latents."""
        try:
            with torch.inference_mode():
                if self._vae_dtype is torch.float16 and getattr(pipe.vae.config, "force_upcast", False):
                    pipe.vae.to(torch.float32)
                return _bytes(decoding.pictures(pipe, latents, height, width))
        finally:
            pipe.vae.to(self._vae_dtype)

    def _recover(self) -> None:
        """Make the pipeline fit for smaller batches after one that ran out of memory, wherever it was."""
        self._pipe.vae.to(self._vae_dtype)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Guesses:
    """Keeps what a scheduler takes, after each step, for the finished latents."""

    def __init__(self, scheduler: Any) -> None:
        self.last = torch.empty(0)
        flow = "FlowMatch" in type(scheduler).__name__
        original = scheduler.step

        # Pipelines look at the signature to find out whether a step draws noise, and then give it their generators.
        @functools.wraps(original)
        def step(prediction: torch.Tensor, timestep: Any, sample: torch.Tensor, *rest: Any, **named: Any) -> Any:
            if flow and scheduler.step_index is None:
                scheduler._init_step_index(timestep)
            level = scheduler.sigmas[scheduler.step_index] if flow else None
            result = original(prediction, timestep, sample, *rest, **named)
            if level is not None:
                self.last = sample - level * prediction
            else:
                self.last = result[-1] if isinstance(result, tuple) else result.prev_sample
            return result

        scheduler.step = step


def load(recipe: Recipe) -> DiffusionPipeline:
    """The pipeline of a recipe, its engine built and its first images drawn.

    Raises RecipeError, WeightsError or EngineError.
    """
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if recipe.precision == INT8 and recipe.engine == "onnxruntime" and device.type == "cuda":
        raise RecipeError("precision", "engine onnxruntime computes in int8 on a CPU only: use engine diffusers")
    pipe = _assemble(recipe, device)
    pipeline = DiffusionPipeline(pipe, recipe)
    if recipe.adapters and not hasattr(pipe, "load_lora_weights"):
        kind = type(pipe).__name__
        weights.say(f"{recipe.source} is a {kind}, which takes no adapters: requests that name one are refused")
    # What is compiled would be compiled again for each adapter, while requests wait.
    if not recipe.adapters:
        denoisers.install(pipe, recipe, pipeline.begin)
    _prove(pipeline, recipe)
    prove_step_caches(pipeline, recipe)
    if recipe.discriminator and len(recipe.offered) > 1:
        weights.say(f"{recipe.discriminator} judges images of every size, resized to what it was trained for")
    if recipe.edits:
        prove_edits(pipeline, recipe)
    weights.say(
        f"{recipe.source} is ready after {time.monotonic() - began:.0f} s (engine {recipe.engine}, {pipe.device})"
    )
    return pipeline


def _prove(pipeline: DiffusionPipeline, recipe: Recipe) -> None:
    """Draw once: what is slow the first time is over then, and images have the sizes that the manifest says."""
    for size in recipe.offered:
        for batch in (1, 2)[: recipe.batch] if size == recipe.offered[0] else (1,):
            try:
                settings = replace(recipe.default, size=size)
                images = pipeline.generate([(EXAMPLE, "")] * batch, list(range(batch)), settings, None)
            except OutOfMemory:
                if batch > 1:
                    break
                raise
            except (ValueError, TypeError) as error:
                raise RecipeError("source", f"{recipe.source} cannot be run as the manifest says: {error}") from None
            height, width = images.shape[1:3]
            if f"{width}x{height}" != size:
                raise RecipeError(
                    "sizes",
                    f"{recipe.source} makes images of {width}x{height} where the manifest says {size}: "
                    f"write {width}x{height}",
                )


def prove_step_caches(pipeline: DiffusionPipeline, recipe: Recipe) -> None:
    """Begin an image with each step cache of the manifest, far enough that steps are saved; raises RecipeError."""
    shortest: dict[str, Settings] = {}
    for settings in sorted(recipe.settings.values(), key=lambda each: each.steps):
        shortest.setdefault(settings.step_cache, settings)
    for step_cache in filter(None, shortest):
        try:
            pipeline.generate([(EXAMPLE, "")], [0], shortest[step_cache], lambda step: [step <= WARM_UP + 1])
        except (OutOfMemory, RecipeError):
            raise
        except Exception as error:
            raise RecipeError(
                "stepCache",
                f"diffusers {diffusers.__version__} cannot draw {recipe.source} with {step_cache}: leave it out "
                f"({weights.first_line(error)})",
            ) from None


def prove_edits(pipeline: DiffusionPipeline, recipe: Recipe) -> None:
    """Edit an image, whole and a half of it; raises RecipeError."""
    image = np.full((recipe.height, recipe.width, 3), 128, dtype=np.uint8)
    half = np.zeros((recipe.height, recipe.width), dtype=np.bool_)
    half[: recipe.height // 2] = True
    for mask in (None, half):
        settings = dataclasses.replace(recipe.default, strength=1 / recipe.default.steps, masked=mask is not None)
        try:
            pipeline.generate([(EXAMPLE, "")], [0], settings, None, given=[Given(image, mask)])
        except (ValueError, TypeError) as error:
            raise RecipeError(
                "edits", f"{recipe.source} cannot edit images as the manifest says ({error}): leave it out"
            ) from None


def _readers(pipe: Any, longest: int | None) -> list[tuple[Any, int]]:
    """The tokenizers of a pipeline with the tokens that each reads, the one that reads most last.

    Tokenizers of CLIP have a length of their own; those of large language models say none, and are called with the
    length that the pipeline takes (``longest``).
    """
    found = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4"):
        tokenizer = getattr(pipe, name, None)
        if tokenizer is None:
            continue
        is_clip = "CLIP" in type(tokenizer).__name__
        found.append((tokenizer, int(tokenizer.model_max_length if is_clip or longest is None else longest)))
    return sorted(found, key=lambda each: each[1])


def _assemble(recipe: Recipe, device: torch.device) -> Any:
    """The pipeline of diffusers, on the device."""
    assembly = recipe.assembly
    dtype = getattr(torch, diffusion_files.dtype_of(recipe, device.type))
    parts = diffusion_files.fetch(recipe, diffusion_files.dtype_of(recipe, device.type))
    kind = _class(parts.index, assembly.pipeline, parts.source)
    given: dict[str, Any] = {name: None for name in diffusion_files.UNUSED if name in parts.index}
    if "requires_safety_checker" in inspect.signature(kind.__init__).parameters:
        given["requires_safety_checker"] = False
    if _reads_images(parts.index.get("tokenizer")):
        given["tokenizer"] = None
    if parts.denoiser_weights is not None:
        network = parts.index[parts.denoiser][1]
        given[parts.denoiser] = _denoiser(network, parts.folder / parts.denoiser, parts.denoiser_weights, dtype)
    try:
        pipe = kind.from_pretrained(
            parts.folder, dtype=dtype, variant=parts.variant, use_safetensors=True, local_files_only=True, **given
        )
        if "tokenizer" in given:
            pipe.tokenizer = transformers.AutoTokenizer.from_pretrained(parts.folder / "tokenizer")
        if assembly.scheduler:
            changes = dict(assembly.scheduler)
            scheduler = getattr(diffusers, changes.pop("class"))
            pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **changes)
        for name in (parts.denoiser, "vae"):
            _check_filled(
                getattr(pipe, name), [parts.folder / file for file in parts.weights if file.startswith(f"{name}/")]
            )
        if recipe.precision == INT8 and recipe.engine == "diffusers":
            # Before it goes to the device, which then never has to hold the whole numbers.
            quantise(denoisers.of(pipe))
        pipe.to(device)
    except (EngineError, weights.WeightsError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"out of memory while {recipe.source} was loaded: take a smaller model") from error
        raise EngineError(f"{recipe.source} cannot be loaded: {weights.first_line(error)}") from error
    return pipe


def _check_filled(network: torch.nn.Module, files: Sequence[Path]) -> None:
    """Raises EngineError where files held too few numbers: diffusers leaves what they lack random, without an error."""
    there, needed = sum(map(weights.check_safetensors, files)), sum(p.numel() for p in network.parameters())
    if files and there < needed:
        raise EngineError(
            f"{files[0]} holds {there} numbers where {type(network).__name__} has {needed}: it is another network's "
            "file, or a part; take a revision that is whole"
        )


def _class(index: Mapping[str, Any], wanted: str, source: str) -> Any:
    """The pipeline class, which makes images from text alone."""
    named = index["_class_name"]
    if wanted and named != wanted:
        raise RecipeError("source", f"{source} is a {named}, not the {wanted} that the catalogue says")
    kind = getattr(diffusers, named, None)
    if kind is None:
        raise RecipeError("source", f"{source} is a {named}, which diffusers {diffusers.__version__} does not have")
    parameters = inspect.signature(kind.__call__).parameters
    needed = {"prompt", "generator", "callback_on_step_end", "num_inference_steps", "height", "width"}
    if not needed <= set(parameters) or ("image" in parameters and not _draws_without_image(kind)):
        raise RecipeError("source", f"{source} is a {named}, which does not make images from text alone")
    return kind


def _draws_without_image(kind: Any) -> bool:
    """Whether a pipeline that takes an image also makes images from text alone, as diffusers lists it."""
    listed = AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    return kind in listed and "controlnet" not in inspect.signature(kind.__init__).parameters


def _reads_images(tokenizer: Any) -> bool:
    """Whether what an index calls the tokenizer also reads images. Only its half for text is needed, and loads without
    the libraries that the other half needs."""
    return tokenizer is not None and str(tokenizer[1]).endswith("Processor")


def _denoiser(network: str, configuration: Path, file: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A denoiser whose weights have a file of their own, in the shape of the base's."""
    from safetensors.torch import load_file

    kind = getattr(diffusers, network)
    denoiser: torch.nn.Module = kind.from_config(kind.load_config(configuration)).to(dtype)
    try:
        denoiser.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise EngineError(f"{file} does not fit the base: {weights.first_line(error)}") from None
    return denoiser


def _discriminator_folder(source: str) -> Path | None:
    """Where a discriminator's files are; None for a built-in one."""
    if source.startswith(FILE):
        return Path(source.removeprefix(FILE))
    if source.startswith(HUB):
        name, _, revision = source.partition("@")
        files = weights.find(name, revision)
        return files.folder([file for file in files.names if file.endswith(discriminators.SUFFIXES)])
    return None


def _ask(poll: Poll | None, step: int, wanted: list[bool]) -> None:
    """Note which images are still wanted; raises _Abandoned where none is."""
    answer = poll(step) if poll is not None else None
    if answer is not None:
        wanted[:] = answer
    if not any(wanted):
        raise _Abandoned


def _bytes(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Images ``[B, H, W, 3]`` of tensors ``[B, 3, H, W]`` in 0..1."""
    levels = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    result: npt.NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return result

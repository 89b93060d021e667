"""Reads the options that narrow the search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cascade_api.command import CommandFailed
from cascade_models.manifest import ManifestVariant
from cascade_models.recipe import FIRST_BLOCK, INT8, PRECISIONS, TAYLOR_SEER, SettingsSpace, is_interval, is_step_cache

NONE, OWN, ALL = "none", "own", "all"
UNGUIDED = 1.0


def narrowed(
    spaces: Mapping[str, SettingsSpace],
    variants: Sequence[ManifestVariant],
    *,
    steps: Sequence[str],
    guidance: Sequence[str],
    guided: Sequence[str],
    step_cache: Sequence[str],
    precision: Sequence[str],
) -> dict[str, SettingsSpace]:
    """The spaces by Triton model, with the steps, scales and parts of guidance, step caches and precisions that the
    options name instead of theirs.

    An option is a list such as ``4,8,12``, for all weights, or ``heavy=4,8,12``, for those of the variant ``heavy``.
    Raises CommandFailed, which names the option.
    """
    found = dict(spaces)
    for text in steps:
        models, items = _read("--steps", text, variants)
        numbers = tuple(_steps(item) for item in items)
        found |= {model: replace(found[model], steps=numbers) for model in models}
    for text in guidance:
        models, items = _read("--guidance", text, variants)
        scales = tuple(_scale(item) for item in items)
        found |= {model: replace(found[model], guidance=scales) for model in models}
    for text in guided:
        models, items = _read("--guided", text, variants)
        intervals = tuple(dict.fromkeys(["", *(_interval(item) for item in items)]))
        found |= {model: replace(found[model], intervals=intervals) for model in models}
    for text in step_cache:
        models, items = _read("--step-cache", text, variants)
        caches = tuple(dict.fromkeys(_step_cache(item) for item in items))
        found |= {model: replace(found[model], step_caches=caches) for model in models}
    for text in precision:
        models, items = _read("--precision", text, variants)
        others = tuple(dict.fromkeys(_precision(item) for item in items if item != OWN))
        found |= {model: replace(found[model], precisions=others) for model in models}
    return found


def _read(option: str, text: str, variants: Sequence[ManifestVariant]) -> tuple[list[str], list[str]]:
    """The Triton models that an option is for, and the items of its list."""
    name, given, items = text.rpartition("=")
    models = {variant.name: variant.model for variant in variants}
    if given and name not in models:
        raise CommandFailed(f"{option}: no variant {name!r}: name one of {', '.join(models)}", code=2)
    return [models[name]] if given else list(dict.fromkeys(models.values())), [one.strip() for one in items.split(",")]


def _steps(item: str) -> int:
    if not item.isascii() or not item.isdigit() or not 1 <= int(item) <= 1000:
        raise CommandFailed(f"--steps: {item!r} is not a number of steps: write a list such as 4,8,12", code=2)
    return int(item)


def _interval(item: str) -> str:
    if item == ALL:
        return ""
    if not is_interval(item):
        raise CommandFailed(f"--guided: {item!r} is not a part of the steps: write a list such as {ALL},15-60", code=2)
    return item


def _step_cache(item: str) -> str:
    if item == NONE:
        return ""
    if not is_step_cache(item):
        raise CommandFailed(
            f"--step-cache: {item!r} is not a step cache: "
            f"write a list such as {NONE},{FIRST_BLOCK}:0.08,{TAYLOR_SEER}:3",
            code=2,
        )
    return item


def _precision(item: str) -> str:
    if item not in PRECISIONS:
        raise CommandFailed(
            f"--precision: {item!r} is not a precision: "
            f"write a list such as {OWN},{INT8}, where {OWN} is the manifest's",
            code=2,
        )
    return item


def _scale(item: str) -> float | None:
    if item == OWN:
        return None
    try:
        scale = UNGUIDED if item == NONE else float(item)
    except ValueError:
        scale = -1.0
    if not 0 <= scale < 1000:
        raise CommandFailed(
            f"--guidance: {item!r} is not a scale: write a list such as {NONE},2.5,{OWN}, where {OWN} is the model's",
            code=2,
        )
    return scale

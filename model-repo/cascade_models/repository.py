"""Renders the Triton model repository of a manifest: one model for all variants of the same weights.

A model is a `config.pbtxt` and a shim that imports the serving package; weights stay where they are. Recipes are
checked when they are made, files are replaced one by one and atomically, and rendering twice changes nothing, so a
server may run on the folder meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cascade_models import catalogue, pipelines
from cascade_models.manifest import ManifestError, ManifestVariant
from cascade_models.recipe import BUILTIN, DTYPES, PRECISIONS, Assembly, Recipe, RecipeError, Settings, SettingsSpace

QUEUE_DELAY_US: Final = 300
"""How long the first request of a batch waits for company: as long as a router takes to send a few requests."""

RUNS: Final = 3
"""Runs that may have begun at a time in a process: images of some 30 steps, of 6 that overtook them, and of 1."""

EDIT_STEPS: Final = 2
"""Fewest steps of a variant that edits; `cascade_api.variants` has the same."""

GIVEN: Final = """,
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] optional: true }},
  {{ name: "mask" data_type: TYPE_UINT8 dims: [ {height}, {width}, 1 ] optional: true }}"""
"""Inputs of weights that edit: the given image, in the size of all images, and where it is drawn anew (not 0)."""

SHIM: Final = '''"""Loads the serving pipeline; what it serves stands in config.pbtxt."""

from cascade_models.serving.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def models_of(variants: Sequence[ManifestVariant]) -> dict[str, Recipe]:
    """The recipes of the Triton models that serve variants, by the model's name; raises ManifestError."""
    sharing: dict[str, list[ManifestVariant]] = {}
    for variant in variants:
        sharing.setdefault(variant.model, []).append(variant)
    return {model: recipe_of(those) for model, those in sharing.items()}


def recipe_of(variants: Sequence[ManifestVariant]) -> Recipe:
    """The recipe of the weights that all of these variants share, checked against those that are here.

    Raises ManifestError where a variant cannot be served, or where its images have other sizes than those of another,
    or are judged by another discriminator.
    """
    first = variants[0]
    entry = catalogue.find(first.source)
    assembly = _assembly(first, entry)
    recipe = Recipe(
        source=first.source,
        revision=first.revision,
        weights=first.weights,
        engine=first.engine,
        precision=first.precision,
        height=first.height,
        width=first.width,
        sizes=first.sizes,
        discriminator=first.discriminator,
        batch=max(variant.batch for variant in variants),
        settings={
            v.name: v.settings if v.settings.guidance is not None else replace(v.settings, guidance=assembly.guidance)
            for v in variants
        },
        assembly=assembly,
        adapters={adapter.digest: adapter for v in variants for adapter in v.adapters},
        adapter_memory_mib=max(v.adapter_memory_mib for v in variants),
        edits=any(v.edits for v in variants),
    )
    for variant in variants:
        if variant.discriminator != first.discriminator:
            raise ManifestError(
                variant.discriminator_field,
                f"{variant.name} has the weights of {first.name}, so they need the same discriminator: "
                f"write {first.discriminator or 'none'}",
            )
        if variant.sizes != first.sizes:
            raise ManifestError(
                variant.sizes_field,
                f"{variant.name} has the weights of {first.name}, so they need the same sizes: "
                f"write {', '.join(first.sizes)}",
            )
        try:
            pipelines.check(recipe)
            if entry is not None:
                entry.check(recipe)
            check_settings(recipe, variant.settings)
            if variant.edits and variant.settings.steps < EDIT_STEPS:
                raise RecipeError(
                    "edits", f"needs at least {EDIT_STEPS} steps, or nothing is left of the given image: leave it out"
                )
        except RecipeError as error:
            raise ManifestError(_place(variant, error.key), str(error)) from None
    return recipe


def check_settings(recipe: Recipe, settings: Settings) -> None:
    """Raises RecipeError, whose key is a setting, where the weights of a checked recipe cannot draw so."""
    pipelines.check_settings(recipe, settings)
    entry = catalogue.find(recipe.source)
    if entry is not None:
        entry.check_settings(settings)


def settings_space(recipe: Recipe) -> SettingsSpace:
    """The settings that are worth trying with the weights of a checked recipe, if nobody names others."""
    entry = catalogue.find(recipe.source)
    space = pipelines.settings_space(recipe) if entry is None else entry.search
    return space if recipe.assembly.steps is None else replace(space, steps=(recipe.assembly.steps,))


def _assembly(variant: ManifestVariant, entry: catalogue.CatalogueEntry | None) -> Assembly:
    """What the catalogue says, in the number format that the manifest says."""
    if entry is not None:
        assembly = replace(entry.assembly, steps=entry.weights.get(variant.weights))
    else:
        assembly = Assembly(dtype="float32") if variant.source.startswith(BUILTIN) else Assembly()
    if variant.precision:
        if variant.precision not in PRECISIONS:
            raise ManifestError(
                f"{variant.field}.precision",
                f"{variant.precision!r} is not known: write one of {', '.join(PRECISIONS)}",
            )
        assembly = replace(assembly, dtype=DTYPES.get(variant.precision, assembly.dtype))
    return assembly


def _place(variant: ManifestVariant, key: str) -> str:
    """The manifest's field of a part of a recipe."""
    if key.startswith("sizes"):
        return variant.sizes_field + key.removeprefix("sizes")
    match key:
        case "discriminator":
            return variant.discriminator_field
        case "engine" | "precision" | "adapters" | "edits":
            return f"{variant.field}.{key}"
        case "steps" | "guidance" | "guidanceInterval" | "stepCache":
            return f"{variant.field}.settings.{key}"
        case _:
            return f"{variant.field}.model.{key}"


def config(name: str, recipe: Recipe, *, queue_delay_us: int = QUEUE_DELAY_US, previews: bool = False) -> str:
    """The `config.pbtxt` of a model; its parameters say in words which weights these are, and how many runs may begin.

    Without a queue policy: with one, even a queue size alone, Triton (2.51) does not prefetch batches, and now and
    then its batcher misses that the model is free and sleeps half a second on waiting requests. Credits bound what
    waits, and deadlines come as cancellations.
    """
    parameters = "\n".join(
        f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}"
        for key, value in {**recipe.parameters(), "runs": str(RUNS)}.items()
    )
    # The built-in models leave an accelerator alone; all others take the one that the replica has, if it has one.
    kind = "KIND_CPU" if recipe.source.startswith(BUILTIN) else "KIND_AUTO"
    height, width = (recipe.height, recipe.width) if len(recipe.offered) == 1 else (-1, -1)
    given = GIVEN.format(height=height, width=width) if recipe.edits else ""
    policy = "model_transaction_policy { decoupled: true }\n" if previews else ""
    return f"""name: {_quote(name)}
backend: "python"
max_batch_size: {recipe.batch}
input [
  {{ name: "prompt" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "negative_prompt" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "seed" data_type: TYPE_INT64 dims: [ 1 ] optional: true }}{given}
]
output [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] }},
  {{ name: "image_encoded" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "confidence" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "batch_time" data_type: TYPE_FP32 dims: [ 2 ] }},
  {{ name: "prompt_tokens" data_type: TYPE_INT32 dims: [ 2 ] }}
]
instance_group [ {{ count: 1 kind: {kind} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {queue_delay_us}
}}
{policy}{parameters}
"""


def render(
    models: Mapping[str, Recipe],
    directory: Path,
    *,
    queue_delay_us: int = QUEUE_DELAY_US,
    previews: bool = False,
    keep: Container[str] = (),
) -> list[str]:
    """Makes ``directory`` the repository of these models; returns those that changed.

    Other models are removed, except for those to ``keep``. Folders of other things are left alone.
    """
    configs = {
        name: config(name, recipe, queue_delay_us=queue_delay_us, previews=previews) for name, recipe in models.items()
    }
    changed = []
    for name, text in configs.items():
        version = directory / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        # The config comes last: Triton takes a folder for a model when it has one.
        written = [_replace(version / "model.py", SHIM), _replace(directory / name / "config.pbtxt", text)]
        if any(written):
            changed.append(name)
    for shim in sorted(directory.glob("*/1/model.py")):
        folder = shim.parent.parent
        if folder.name not in configs and folder.name not in keep and shim.read_text(encoding="utf-8") == SHIM:
            shutil.rmtree(folder)
            changed.append(folder.name)
    return changed


def _replace(file: Path, text: str) -> bool:
    """Gives a file its content atomically; False where it had it."""
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return False
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(file)
    return True


def _quote(text: str) -> str:
    return json.dumps(text)

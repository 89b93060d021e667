"""Renders the Triton model repository of a manifest: one model per variant, named after it.

A model is a `config.pbtxt` and a shim that imports the serving package; weights stay where they are. Everything is
checked before anything is written, files are replaced one by one and atomically, and rendering twice changes nothing,
so a server may run on the folder meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cascade_models import catalogue, pipelines
from cascade_models.manifest import ManifestError, ManifestVariant
from cascade_models.recipe import BUILTIN, Assembly, Recipe, RecipeError

QUEUE_DELAY_US: Final = 300
"""How long the first request of a batch waits for company: as long as a router takes to send a few requests."""

PRECISIONS: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Number format by what a manifest calls it."""

SHIM: Final = '''"""Loads the serving pipeline; what it serves stands in config.pbtxt."""

from cascade_models.serving.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def recipe_of(variant: ManifestVariant) -> Recipe:
    """The recipe of a variant, checked against the weights that are here; raises ManifestError."""
    entry = catalogue.find(variant.source)
    recipe = Recipe(
        source=variant.source,
        revision=variant.revision,
        weights=variant.weights,
        steps=variant.steps,
        height=variant.height,
        width=variant.width,
        engine=variant.engine,
        discriminator=variant.discriminator,
        batch=variant.batch,
        assembly=_assembly(variant, entry),
    )
    try:
        pipelines.check(recipe)
        if entry is not None:
            entry.check(recipe)
    except RecipeError as error:
        raise ManifestError(_place(variant, error.key), str(error)) from None
    return recipe


def _assembly(variant: ManifestVariant, entry: catalogue.CatalogueEntry | None) -> Assembly:
    """What the catalogue says, changed as the manifest says."""
    if entry is not None:
        assembly = entry.assembly
    else:
        assembly = Assembly(dtype="float32") if variant.source.startswith(BUILTIN) else Assembly()
    if variant.guidance is not None:
        assembly = replace(assembly, guidance=variant.guidance)
    if variant.precision:
        if variant.precision not in PRECISIONS:
            raise ManifestError(
                f"{variant.field}.precision",
                f"{variant.precision!r} is not known: write one of {', '.join(PRECISIONS)}",
            )
        assembly = replace(assembly, dtype=PRECISIONS[variant.precision])
    return assembly


def _place(variant: ManifestVariant, key: str) -> str:
    """The manifest's field of a part of a recipe."""
    match key:
        case "discriminator":
            return variant.discriminator_field
        case "size":
            return "spec.sizes.0"
        case "engine" | "precision":
            return f"{variant.field}.{key}"
        case "steps" | "guidance":
            return f"{variant.field}.settings.{key}"
        case _:
            return f"{variant.field}.model.{key}"


def config(
    variant: ManifestVariant, recipe: Recipe, *, queue_delay_us: int = QUEUE_DELAY_US, previews: bool = False
) -> str:
    """The model's `config.pbtxt`.

    Without a queue policy: with one, even a queue size alone, Triton (2.51) does not prefetch batches, and now and
    then its batcher misses that the model is free and sleeps half a second on waiting requests. Credits bound what
    waits, and deadlines come as cancellations.
    """
    parameters = "\n".join(
        f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}"
        for key, value in recipe.parameters().items()
    )
    # The built-in models leave an accelerator alone; all others take the one that the replica has, if it has one.
    kind = "KIND_CPU" if recipe.source.startswith(BUILTIN) else "KIND_AUTO"
    policy = "model_transaction_policy { decoupled: true }\n" if previews else ""
    return f"""name: {_quote(variant.name)}
backend: "python"
max_batch_size: {variant.batch}
input [
  {{ name: "prompt" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "negative_prompt" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "seed" data_type: TYPE_INT64 dims: [ 1 ] optional: true }}
]
output [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {recipe.height}, {recipe.width}, 3 ] }},
  {{ name: "image_encoded" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "confidence" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "batch_time" data_type: TYPE_FP32 dims: [ 2 ] }}
]
instance_group [ {{ count: 1 kind: {kind} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {queue_delay_us}
}}
{policy}{parameters}
"""


def render(
    variants: Sequence[ManifestVariant],
    directory: Path,
    *,
    queue_delay_us: int = QUEUE_DELAY_US,
    previews: bool = False,
) -> list[str]:
    """Makes ``directory`` the repository of exactly these variants; returns the models that changed.

    Models of variants that are no longer there are removed, other folders left alone. Raises ManifestError, having
    written nothing, where a variant cannot be served.
    """
    configs = {v.name: config(v, recipe_of(v), queue_delay_us=queue_delay_us, previews=previews) for v in variants}
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
        if folder.name not in configs and shim.read_text(encoding="utf-8") == SHIM:
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

"""Loads models that cannot be served, and prints the error of each as JSON; it runs in .venv-diffusers.

Arguments: the folder of the tiny model, and one to work in.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import tiny_diffusion
import torch
from diffusers import AutoencoderKL

from cascade_models import pipelines, weights
from cascade_models.engines import exporting
from cascade_models.pipelines import diffusion_run
from cascade_models.recipe import Assembly, Recipe, Settings

UNET = "unet/diffusion_pytorch_model.safetensors"


def recipe_of(folder: Path, **changes: object) -> Recipe:
    recipe = Recipe(
        source=f"file://{folder}", revision=weights.revision_of(folder), weights="", engine="diffusers",
        precision="", height=32, width=32, discriminator="", batch=2, settings={"tiny": Settings(2)},
    )  # fmt: skip
    return dataclasses.replace(recipe, **changes)


def refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def edited(model: Path, folder: Path, name: str, edit: Callable[[bytes], bytes]) -> Path:
    """A copy of the model with one file changed."""
    shutil.copytree(model, folder)
    (folder / name).write_bytes(edit((folder / name).read_bytes()))
    return folder


def class_named(name: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(b'"StableDiffusionPipeline"', f'"{name}"'.encode())


def starved(recipe: Recipe) -> str:
    """The error of a batch if the process may only use ten megabytes more than now."""
    pipeline = diffusion_run.load(recipe)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 10_000_000, limits[1]))
    try:
        return refusal(lambda: pipeline.generate([("a", "")] * 256, list(range(256)), recipe.default, None))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def mistaken(recipe: Recipe) -> str:
    """The error of an export that computes something else."""
    tolerances = dict(exporting.TOLERANCES)
    exporting.TOLERANCES[torch.float32] = -1.0
    try:
        return refusal(lambda: pipelines.load(dataclasses.replace(recipe, engine="onnxruntime")))
    finally:
        exporting.TOLERANCES.update(tolerances)


def coarse(folder: Path) -> Path:
    """A model whose latents are sixteen times smaller than its images."""
    made = tiny_diffusion.pipeline()
    made.vae = AutoencoderKL(
        block_out_channels=(8,) * 5, latent_channels=4, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 5, up_block_types=("UpDecoderBlock2D",) * 5,
    )  # fmt: skip
    made.save_pretrained(folder, safe_serialization=True)
    return folder


def main(model: Path, scratch: Path) -> None:
    good = recipe_of(model)
    cases: dict[str, Callable[[], str]] = {
        "revision": lambda: refusal(lambda: pipelines.load(dataclasses.replace(good, revision="0" * 64))),
        "no folder": lambda: refusal(lambda: pipelines.load(dataclasses.replace(good, source="file:///none"))),
        "catalogue": lambda: refusal(
            lambda: pipelines.load(dataclasses.replace(good, assembly=Assembly(pipeline="FluxPipeline")))
        ),
        "tensorrt": lambda: refusal(lambda: pipelines.load(dataclasses.replace(good, engine="tensorrt"))),
        "size": lambda: refusal(lambda: pipelines.load(recipe_of(coarse(scratch / "coarse"), height=40, width=40))),
        "mistaken": lambda: mistaken(good),
        "memory": lambda: starved(good),
    }
    edits = {
        "image needed": ("model_index.json", class_named("StableDiffusionImg2ImgPipeline")),
        "unknown class": ("model_index.json", class_named("StableDiffusion9Pipeline")),
        "no index": ("model_index.json", lambda _: b"[]"),
        "cut off": (UNET, lambda content: content[:-100]),
        "no header": (UNET, lambda content: b"\xff" * 8 + content[8:]),
        "another network": (UNET, lambda _: (model / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()),
    }
    for name, (file, edit) in edits.items():
        folder = scratch / name.replace(" ", "-")
        cases[name] = lambda file=file, edit=edit, folder=folder: refusal(
            lambda: pipelines.load(recipe_of(edited(model, folder, file, edit)))
        )
    print(json.dumps({name: case() for name, case in cases.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

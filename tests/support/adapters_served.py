"""Serves pipelines with LoRA adapters of random weights, and prints what came out as JSON.

It runs in .venv-diffusers. Arguments: a folder to work in, and classes of the catalogue. The first class goes through
everything; the others only show that an adapter has an effect, and leaves none behind. With a folder, `--write`, a
model's folder and names, it only writes adapters of these names for the model.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import peft
import pipelines_served
import tiny_pipelines
import torch

from cascade_models import catalogue, layout, pipelines, weights
from cascade_models.pipelines import adapters
from cascade_models.recipe import Adapter, Recipe, Settings

apart = pipelines_served.apart
RANK = 4


def write_adapter(model: Path, folder: Path, *, seed: int, size: float = 0.5) -> None:
    """An adapter for the attention of a model's denoiser, as `save_lora_weights` of its pipeline writes one."""
    torch.manual_seed(seed)
    index = json.loads((model / layout.INDEX).read_text())
    part = next(name for name in layout.DENOISERS if name in index)
    denoiser = getattr(diffusers, index[part][1]).from_pretrained(model / part)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    denoiser.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False))
    for name, parameter in denoiser.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=size)
    layers = peft.utils.get_peft_model_state_dict(denoiser)
    kind = getattr(diffusers, index["_class_name"])
    kind.save_lora_weights(folder, **{f"{part}_lora_layers": layers}, safe_serialization=True)


def adapter_in(folder: Path, scale: float = 1.0) -> Adapter:
    return Adapter(f"file://{folder}", weights.revision_of(folder), "", scale)


def adapted(name: str, scratch: Path) -> tuple[Recipe, list[Adapter]]:
    """The recipe of a class with two adapters."""
    tiny_pipelines.write(name, scratch / name)
    entry = next(each for each in catalogue.entries().values() if each.assembly.pipeline == name)
    made = []
    for seed in (1, 2):
        folder = scratch / f"{name}-adapter-{seed}"
        write_adapter(scratch / name, folder, seed=seed)
        made.append(adapter_in(folder))
    recipe = pipelines_served.recipe_of(entry, scratch / name)
    return dataclasses.replace(recipe, adapters={each.digest: each for each in made}), made


def drawing(pipeline: Any, settings: Settings) -> Callable[..., Any]:
    """Draws an image with an adapter, or with none."""

    def draw(adapter: Adapter | None = None, poll: Any = None) -> Any:
        lora = "" if adapter is None else adapter.digest
        return pipeline.generate([("a red circle", "")], [7], dataclasses.replace(settings, lora=lora), poll)[0]

    return draw


def effects(name: str, scratch: Path) -> dict[str, Any]:
    """How far images of a class are apart with two adapters, in turn and at once, and with none."""
    recipe, (one, other) = adapted(name, scratch)
    pipeline = pipelines.load(recipe)
    draw = drawing(pipeline, recipe.default)
    plain = draw()
    first, second = draw(one), draw(other)
    inside: list[Any] = []

    def overtaken(step: int) -> None:
        inside.extend([draw(other), draw()])

    overtaken_image = draw(one, overtaken)
    plain_overtaken = draw(None, lambda step: inside.append(draw(one)) if step == 1 else None)
    return {
        "effect": min(apart(plain, first), apart(plain, second), apart(first, second)),
        "again": max(apart(draw(one), first), apart(draw(other), second)),
        "overtaken": max(apart(overtaken_image, first), apart(plain_overtaken, plain)),
        "overtaking": max(
            *(apart(image, second) for image in inside[:-1:2]), *(apart(image, plain) for image in inside[1:-1:2]),
            apart(inside[-1], first),
        ),
        "plain again": apart(draw(), plain),
    }  # fmt: skip


def bounds(name: str, scratch: Path) -> dict[str, Any]:
    """What is loaded when there is room for one adapter at a time, and when there are more than may be loaded."""
    recipe, (one, other) = adapted(name, scratch)
    pipeline: Any = pipelines.load(recipe)
    draw = drawing(pipeline, recipe.default)
    networks = [getattr(pipeline._pipe, part) for part in pipeline._pipe._lora_loadable_modules]

    def numbers() -> int:
        return sum(p.numel() for network in networks for p in network.parameters())

    bare = numbers()
    plain, first = draw(), draw(one)
    size = pipeline._adapters.loaded[one.digest]
    found: dict[str, Any] = {"size": [size, 4 * (numbers() - bare)]}
    pipeline._adapter_files.limit_mib = 1.5 * size / 2**20
    second = draw(other)
    found["one at a time"] = [list(pipeline._adapters.loaded) == [other.digest], 4 * (numbers() - bare)]
    inside: list[Any] = []
    image = draw(one, lambda step: inside.append(draw(other)))
    found["overtaken though unloaded"] = max(apart(image, first), *(apart(each, second) for each in inside))
    pipeline._adapter_files.limit_mib = 0.5 * size / 2**20
    found["too large"] = refusal(lambda: draw(other))
    pipeline._adapter_files.limit_mib = 1024
    many = [dataclasses.replace(one, scale=1 + number / 100) for number in range(adapters.MOST_LOADED + 1)]
    pipeline.follow(dataclasses.replace(recipe, adapters={each.digest: each for each in many}))
    for each in many:
        draw(each)
    found["most"] = list(pipeline._adapters.loaded) == [each.digest for each in many[1:]]
    found["scaled"] = apart(draw(many[-1]), first)
    found["plain again"] = apart(draw(), plain)
    return found


def refusals(name: str, stranger: str, scratch: Path) -> dict[str, Any]:
    """What is said of adapters that cannot be used, and that images are made as before in between."""
    recipe, (one, _) = adapted(name, scratch)
    foreign = adapted(stranger, scratch)[1][0]
    (scratch / "several").mkdir()
    for file in ("a.safetensors", "b.safetensors"):
        (scratch / "several" / file).write_bytes(b"")
    (scratch / "cut").mkdir()
    whole = next(Path(one.source.removeprefix("file://")).iterdir()).read_bytes()
    (scratch / "cut" / "cut.safetensors").write_bytes(whole[:-8])
    wrong = {
        "another network": foreign,
        "several files": adapter_in(scratch / "several"),
        "cut off": adapter_in(scratch / "cut"),
        "revision": dataclasses.replace(one, revision="0" * 64),
        "no folder": Adapter("file:///none", "0" * 64, "a.safetensors", 1.0),
    }
    listed = {each.digest: each for each in (one, *wrong.values())}
    pipeline: Any = pipelines.load(dataclasses.replace(recipe, adapters=listed))
    draw = drawing(pipeline, recipe.default)
    plain, first = draw(), draw(one)
    found: dict[str, Any] = {}
    left = 0
    for what, adapter in wrong.items():
        found[what] = refusal(lambda adapter=adapter: draw(adapter))
        assert refusal(lambda adapter=adapter: pipeline.check_adapter(adapter.digest)) == found[what]
        left = max(left, apart(draw(), plain), apart(draw(one), first))
    found["unknown"] = refusal(lambda: pipeline.check_adapter("0" * 16))
    found["images between"] = left
    return found


def refusal(what: Callable[[], object]) -> str:
    try:
        what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    folder, (whole, *others) = Path(sys.argv[1]), sys.argv[2:]
    if whole == "--write":
        for number, name in enumerate(others[1:]):
            write_adapter(Path(others[0]), folder / name, seed=number, size=0.2)
        sys.exit()
    print(
        json.dumps(
            {
                "effects": {name: effects(name, folder / "effects") for name in (whole, *others)},
                "bounds": bounds(whole, folder / "bounds"),
                "refusals": refusals(whole, "StableDiffusion3Pipeline", folder / "refusals"),
            }
        )
    )

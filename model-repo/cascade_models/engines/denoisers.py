"""Lets an engine run the denoiser of a diffusers pipeline: torch itself, ONNX Runtime or TensorRT.

The pipeline stays as it is. Its denoiser keeps its class and configuration, but its ``forward`` is the engine's, and
its weights are given back. What the engines need is built at the first start and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from cascade_models import layout
from cascade_models.engines import building, calls, exporting, onnxruntime, tensorrt
from cascade_models.recipe import Recipe


def of(pipe: Any) -> torch.nn.Module:
    """The denoiser of a pipeline."""
    parts = (getattr(pipe, name, None) for name in layout.DENOISERS)
    denoiser: torch.nn.Module = next(part for part in parts if part is not None)
    return denoiser


def install(pipe: Any, recipe: Recipe, draw: exporting.Draw) -> None:
    """Has ``recipe.engine`` run the pipeline's denoiser from now on; raises EngineError.

    ``draw`` has the pipeline begin a batch, so that its calls can be watched.
    """
    if recipe.engine == "diffusers":
        compile_where_it_helps(of(pipe))
        return
    denoiser = of(pipe)
    if recipe.engine == "tensorrt":
        tensorrt.library()
    onnx = building.built(identity(recipe, denoiser), lambda folder: exporting.export(denoiser, draw, folder))
    if recipe.engine == "onnxruntime":
        run = onnxruntime.bind(onnx / exporting.FILE, pipe.device)
    else:
        one, two = (calls.watch(denoiser, lambda batch=batch: draw(batch)) for batch in (1, 2))  # type: ignore[misc]
        shapes = tensorrt.ranges(one.shapes(), calls.growing(one, two), batch=recipe.batch)
        plan = building.built(
            {**identity(recipe, denoiser), **tensorrt.identity(), "shapes": shapes},
            lambda folder: tensorrt.build(onnx / exporting.FILE, folder, shapes),
        )
        run = tensorrt.bind(plan / tensorrt.FILE, pipe.device)
    replace(denoiser, run)


def compile_where_it_helps(denoiser: torch.nn.Module) -> None:
    """Compiles a denoiser that runs on a GPU, its repeated blocks once each; on a CPU it only costs time."""
    if next(denoiser.parameters()).device.type != "cuda":
        return
    if getattr(denoiser, "_repeated_blocks", None):
        denoiser.compile_repeated_blocks()
    else:
        denoiser.compile()


def replace(denoiser: torch.nn.Module, run: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]) -> None:
    """Makes ``run`` the denoiser's forward, and gives its weights back."""
    bind = calls.binder(denoiser)

    def forward(*arguments: Any, **named: Any) -> tuple[torch.Tensor]:
        return (run(bind(*arguments, **named).tensors),)

    denoiser.forward = forward
    for parameter in denoiser.parameters():
        # Pipelines ask for format and device of a denoiser, never for the numbers.
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def identity(recipe: Recipe, denoiser: torch.nn.Module) -> dict[str, object]:
    """What an exported denoiser depends on."""
    return {
        "source": recipe.source,
        "revision": recipe.revision,
        "steps": recipe.steps if "{steps}" in recipe.assembly.denoiser else None,
        "base": (recipe.assembly.base, recipe.assembly.base_revision),
        "size": (recipe.height, recipe.width),
        "arguments": dict(recipe.assembly.arguments),
        "guided": recipe.assembly.guidance,
        "dtype": str(next(denoiser.parameters()).dtype),
        "torch": torch.__version__,
    }

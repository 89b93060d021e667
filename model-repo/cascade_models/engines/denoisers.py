"""Lets an engine run the denoiser of a diffusers pipeline.

The pipeline stays as it is. Its denoiser keeps its class and configuration, but its ``forward`` is replaced by the
engine's, and the memory of its weights is freed. What the engines need is built at the first start and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cascade_models import engines, layout
from cascade_models.engines import building, calls, exporting
from cascade_models.recipe import INT8, Recipe


def name_of(pipe: Any) -> str:
    """The name of a pipeline's denoiser among its parts."""
    return next(name for name in layout.DENOISERS if getattr(pipe, name, None) is not None)


def of(pipe: Any) -> torch.nn.Module:
    """The denoiser of a pipeline."""
    denoiser: torch.nn.Module = getattr(pipe, name_of(pipe))
    return denoiser


@dataclass(frozen=True)
class PipelineDenoiser:
    """The denoiser of a pipeline, see `engines.Denoiser`; ``draw`` lets the pipeline begin a batch."""

    module: torch.nn.Module
    identity: Mapping[str, object]
    batch: int
    draw: exporting.Draw
    quantised: bool = False

    def onnx(self) -> Path:
        folder = building.built(self.identity, lambda folder: exporting.export(self.module, self.draw, folder))
        return folder / exporting.FILE

    def shapes(self) -> tuple[dict[str, tuple[int, ...]], dict[str, list[int]]]:
        one, two = (calls.watch(self.module, lambda batch=batch: self.draw(batch)) for batch in (1, 2))  # type: ignore[misc]
        return one.shapes(), calls.growing(one, two)


def install(pipe: Any, recipe: Recipe, draw: exporting.Draw) -> None:
    """Let ``recipe.engine`` run the pipeline's denoiser from now on; raises EngineError.

    ``draw`` lets the pipeline begin a batch, so that its calls can be watched.
    """
    module, quantised = of(pipe), recipe.precision == INT8
    run_by(
        recipe.engine, PipelineDenoiser(module, identity(recipe, module), recipe.batch, draw, quantised), pipe.device
    )


def run_by(name: str, denoiser: PipelineDenoiser, device: torch.device) -> None:
    """Let an engine run a denoiser on a device from now on; raises EngineError."""
    engine = engines.named(name)
    run = engine.bind(engine.prepare(denoiser), device)
    if run is not None:
        replace(denoiser.module, run)


def replace(denoiser: torch.nn.Module, run: engines.Run) -> None:
    """Replace the denoiser's ``forward`` with ``run``, and free the memory of its weights."""
    bind = calls.binder(denoiser)

    def forward(*arguments: Any, **named: Any) -> tuple[torch.Tensor]:
        return (run(bind(*arguments, **named).tensors),)

    denoiser.forward = forward
    for parameter in denoiser.parameters():
        # Pipelines only read the number format and device of the weights, never the weights themselves.
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def identity(recipe: Recipe, denoiser: torch.nn.Module) -> dict[str, object]:
    """All that an exported denoiser depends on."""
    return {
        "source": recipe.source,
        "revision": recipe.revision,
        "weights": recipe.weights,
        "base": (recipe.assembly.base, recipe.assembly.base_revision),
        "size": (recipe.height, recipe.width),
        "arguments": dict(recipe.assembly.arguments),
        "dtype": str(next(denoiser.parameters()).dtype),
        "torch": torch.__version__,
    }

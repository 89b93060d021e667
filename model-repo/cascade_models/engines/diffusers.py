"""Runs a denoiser unchanged, with torch; on a GPU it is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_models.engines import Denoiser

if TYPE_CHECKING:
    import torch


def prepare(denoiser: Denoiser) -> torch.nn.Module:
    """The module itself; nothing has to be built."""
    return denoiser.module


def bind(artefact: torch.nn.Module, device: torch.device) -> None:
    """Compile the module for a GPU, each of its repeated blocks once. On a CPU, compiling would only cost time."""
    if device.type != "cuda":
        return
    if getattr(artefact, "_repeated_blocks", None):
        artefact.compile_repeated_blocks()
    else:
        artefact.compile()

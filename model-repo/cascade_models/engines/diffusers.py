"""Runs a denoiser as its pipeline has it, with torch; on a GPU compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_models.engines import Denoiser

if TYPE_CHECKING:
    import torch


def prepare(denoiser: Denoiser) -> torch.nn.Module:
    """The module itself: there is nothing to build."""
    return denoiser.module


def bind(artefact: torch.nn.Module, device: torch.device) -> None:
    """Compiles the module for a GPU, its repeated blocks once each; on a CPU that only costs time."""
    if device.type != "cuda":
        return
    if getattr(artefact, "_repeated_blocks", None):
        artefact.compile_repeated_blocks()
    else:
        artefact.compile()

"""Runs a denoiser with torch, unchanged or quantised to int8; on a GPU it is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_models.engines import Denoiser, EngineError

if TYPE_CHECKING:
    import torch


def quantise(module: torch.nn.Module) -> None:
    """Let a denoiser's linear layers compute in int8: weights by channel, activations by token, as they come.

    It is torchao's own function, since diffusers' configuration for it does not reach denoisers whose weights have a
    file of their own. Raises EngineError if torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise EngineError(
            f"torchao is not installed here ({error}), which precision int8 needs: "
            "name an environment made from requirements/diffusers.lock in CASCADE_TRITON_ENV"
        ) from None
    quantize_(module, Int8DynamicActivationInt8WeightConfig())


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

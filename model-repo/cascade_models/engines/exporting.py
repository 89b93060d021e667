"""Writes a pipeline's denoiser as ONNX for any batch size, and checks that ONNX Runtime computes the same as torch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from cascade_models import weights
from cascade_models.engines import EngineError, calls, onnxruntime

FILE: Final = "model.onnx"
OUTPUT: Final = "prediction"
OPSET: Final = 18
TOLERANCES: Final = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""The largest difference that can be rounding, by number format, as a part of the largest value."""
EXPORTED_BATCH: Final = 2
PROVEN_BATCHES: Final = (1, 3)

Draw = Callable[[int], object]
"""Lets the pipeline begin a batch of this many images."""


class _Flat(torch.nn.Module):  # type: ignore[misc]
    """A denoiser that takes its tensors as positional arguments."""

    def __init__(self, denoiser: torch.nn.Module, call: calls.DenoiserCall) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._call = call

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        arguments = self._call.arguments(dict(zip(self._call.tensors, tensors, strict=True)))
        result: torch.Tensor = self.denoiser(**arguments)[0]
        return result


def export(denoiser: torch.nn.Module, draw: Draw, folder: Path) -> float:
    """Write ``model.onnx`` (if the weights are large, with further files) into ``folder``.

    Returns the largest difference from torch, relative to the largest value. Raises EngineError if the denoiser cannot
    be written, or if the difference is more than rounding.
    """
    began = time.monotonic()
    sample = calls.watch(denoiser, lambda: draw(EXPORTED_BATCH))
    proofs = [calls.watch(denoiser, lambda batch=batch: draw(batch)) for batch in PROVEN_BATCHES]  # type: ignore[misc]
    dimensions = calls.growing(proofs[0], proofs[1])
    file = folder / FILE
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # dynamo=False, because torch's newer exporter takes thirteen times as long for the same network.
            torch.onnx.export(
                _Flat(denoiser, sample).eval(),
                tuple(sample.tensors.values()),
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(sample.tensors),
                output_names=[OUTPUT],
                dynamic_axes={
                    OUTPUT: {0: "batch"},
                    **{name: dict.fromkeys(places, "batch") for name, places in dimensions.items() if places},
                },
            )
            _state_shape(file, denoiser(**sample.arguments(sample.tensors))[0].shape)
    except Exception as error:
        raise EngineError(
            f"{type(denoiser).__name__} cannot be written as ONNX ({weights.first_line(error)}): use engine diffusers"
        ) from error
    worst = max(_difference(denoiser, call, file) for call in proofs)
    tolerance = TOLERANCES[next(denoiser.parameters()).dtype]
    if not worst <= tolerance:
        raise EngineError(
            f"ONNX Runtime differs from torch for {type(denoiser).__name__} by {worst:.2g} of the largest value, and "
            f"rounding explains only {tolerance:g}: use engine diffusers"
        )
    weights.say(f"wrote the denoiser as ONNX in {time.monotonic() - began:.0f} s; differs from torch by {worst:.1g}")
    return worst


def _state_shape(file: Path, shape: Sequence[int]) -> None:
    """Write the shape of the output into the file: tracing does not always see that only the batch can vary."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    for place, size in enumerate(shape[1:], start=1):
        dimensions[place].dim_value = size
    onnx.save(model, str(file))


def _difference(denoiser: torch.nn.Module, call: calls.DenoiserCall, file: Path) -> float:
    with torch.inference_mode():
        expected = denoiser(**call.arguments(call.tensors))[0].float()
        actual = onnxruntime.bind(file, expected.device)(call.tensors).float()
    if actual.shape != expected.shape:
        raise EngineError(f"{file} gives {list(actual.shape)}, torch {list(expected.shape)}: use engine diffusers")
    return float((actual - expected).abs().max() / expected.abs().max())

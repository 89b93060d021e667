"""Runs ONNX files with ONNX Runtime: on one thread of the CPU, or on the GPU if the session can use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from cascade_models import quantising
from cascade_models.engines import Denoiser, EngineError, Network, Run, building

if TYPE_CHECKING:
    import torch

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_BFLOAT16: Final = 16
"""The number of the type bfloat16 in ONNX; numpy has no such type."""


def session(file: Path, providers: Sequence[str] = (CPU,)) -> Any:
    """A session that computes only on the calling thread, so that one replica uses one core."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise EngineError("onnxruntime is not installed here: install requirements/triton.lock") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = [provider for provider in providers if provider in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=wanted)
    except Exception as error:
        raise EngineError(f"onnxruntime cannot read {file}: {error}") from None


def load(file: Path, inputs: Sequence[str]) -> Network:
    """The network in ``file``, on the CPU."""
    opened = session(file)
    there = [node.name for node in opened.get_inputs()]
    if sorted(there) != sorted(inputs):
        raise EngineError(f"{file} has inputs {there}, not {list(inputs)}: it is another model's file")

    def run(*arrays: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = opened.run(None, dict(zip(inputs, arrays, strict=True)))[0]
        return result

    return run


def prepare(denoiser: Denoiser) -> Path:
    """The denoiser's ONNX file, or what is made of it in int8."""
    file = denoiser.onnx()
    if not denoiser.quantised:
        return file
    import onnxruntime

    try:
        folder = building.built(
            {**denoiser.identity, "int8": onnxruntime.__version__},
            lambda folder: quantising.quantise(file, folder / file.name, external_data=True),
        )
    except ImportError as error:
        raise EngineError(
            f"ONNX files cannot be quantised here ({error}): "
            "name an environment made from requirements/diffusers.lock in CASCADE_TRITON_ENV"
        ) from None
    return folder / file.name


def bind(artefact: Path, device: torch.device) -> Run:
    """A function that runs the network of an ONNX file, without copies between CPU and GPU.

    If the session cannot use the GPU of the machine, it computes on the CPU, and that is logged once.
    """
    import torch

    from cascade_models import weights

    opened = session(artefact, (CUDA, CPU) if device.type == "cuda" else (CPU,))
    runs_on = device if CUDA in opened.get_providers() else torch.device("cpu")
    if runs_on != device:
        weights.say(
            f"onnxruntime cannot use the GPU and runs {artefact.name} on the CPU: install onnxruntime-gpu for this CUDA"
        )
    (output,) = opened.get_outputs()
    inputs = {node.name for node in opened.get_inputs()}

    def run(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # The exporter leaves out inputs that the network does not read.
        given = {name: tensor.to(runs_on).contiguous() for name, tensor in tensors.items() if name in inputs}
        binding = opened.io_binding()
        for name, tensor in given.items():
            kind, shape = _type(tensor), tuple(tensor.shape)
            binding.bind_input(name, runs_on.type, runs_on.index or 0, kind, shape, tensor.data_ptr())
        first = next(iter(tensors.values()))
        tail = output.shape[1:]
        result = torch.empty((len(first), *tail), dtype=first.dtype, device=runs_on)
        place = (runs_on.type, runs_on.index or 0, _type(result), tuple(result.shape), result.data_ptr())
        binding.bind_output(output.name, *place)
        if runs_on.type == "cuda":
            torch.cuda.current_stream().synchronize()
        opened.run_with_iobinding(binding)
        return result.to(device)

    return run


def _type(tensor: torch.Tensor) -> Any:
    import torch

    return _BFLOAT16 if tensor.dtype is torch.bfloat16 else torch.empty(0, dtype=tensor.dtype).numpy().dtype.type

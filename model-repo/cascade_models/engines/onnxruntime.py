"""Runs ONNX files with ONNX Runtime on one thread of the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_models.engines import EngineError, Network


def load(file: Path, inputs: Sequence[str]) -> Network:
    """A network that computes on the calling thread alone, so that one replica keeps one core busy and no more."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise EngineError("onnxruntime is not installed here: install requirements/triton.lock") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"onnxruntime cannot read {file}: {error}") from None
    there = [node.name for node in session.get_inputs()]
    if sorted(there) != sorted(inputs):
        raise EngineError(f"{file} has inputs {there}, not {list(inputs)}: it is another model's file")

    def run(*arrays: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = session.run(None, dict(zip(inputs, arrays, strict=True)))[0]
        return result

    return run

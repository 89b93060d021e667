"""Writes weights as float16 safetensors and as ONNX, and proves that ONNX Runtime and torch agree.

The ONNX files store float16 initialisers behind casts to float32, which ONNX Runtime folds away when it loads the
model: half the size, and the speed and arithmetic of float32. Weights are rounded to float16 first, so that both
formats hold the same numbers.
"""

from __future__ import annotations

import logging
import pathlib

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import safetensors.torch
import torch
from onnx import numpy_helper
from torch import nn

from cascade_models.shapes import assets, grammar, tokens
from cascade_models.shapes.training import discriminator, network

logger = logging.getLogger("cascade_models.shapes.training")

INPUTS: dict[assets.ModelName, tuple[str, ...]] = {
    "heavy": ("x", "t", "tokens"),
    "light": ("x", "t", "tokens"),
    "discriminator": ("image", "tokens"),
}
OUTPUTS: dict[assets.ModelName, str] = {"heavy": "x0", "light": "x0", "discriminator": "confidence"}
TOLERANCE = 1e-4
_HALVED_FROM = 256


class ExportError(RuntimeError):
    """An exported model is not what was trained."""


def write(name: assets.ModelName, model: nn.Module, directory: pathlib.Path) -> None:
    """Writes ``name.safetensors`` and ``name.onnx``; the model is rounded to float16 precision on the way."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in state.items()})
    (directory / f"{name}.safetensors").write_bytes(safetensors.torch.save(state))
    model.eval()
    exported = torch.onnx.export(
        model,
        sample_inputs(name, 3),
        dynamo=True,
        external_data=False,
        input_names=list(INPUTS[name]),
        output_names=[OUTPUTS[name]],
        dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1, max=4096)} for _ in INPUTS[name]),
        verbose=False,
    )
    if exported is None:
        raise ExportError(f"{name}: torch gave no ONNX program")
    proto = exported.model_proto
    _halve(proto.graph)
    proto.ClearField("metadata_props")
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.ClearField("metadata_props")
    onnx.checker.check_model(proto, full_check=True)
    (directory / f"{name}.onnx").write_bytes(proto.SerializeToString())


def read(name: assets.ModelName, directory: pathlib.Path) -> nn.Module:
    """The torch model of ``name.safetensors``, in float32 and for inference."""
    model = discriminator.DiscriminatorNetwork() if name == "discriminator" else network.DenoiserNetwork()
    state = safetensors.torch.load_file(assets.path(name, "safetensors", directory))
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval().requires_grad_(False)


def session(name: assets.ModelName, directory: pathlib.Path) -> onnxruntime.InferenceSession:
    """A single-threaded ONNX Runtime session on the CPU, as a replica runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return onnxruntime.InferenceSession(
        assets.path(name, "onnx", directory), options, providers=["CPUExecutionProvider"]
    )


def verify(directory: pathlib.Path) -> dict[str, float]:
    """The largest difference between torch and ONNX Runtime by model, over several batch sizes.

    Raises:
        ExportError: it exceeds ``TOLERANCE``, or an output has the wrong shape.
    """
    differences: dict[str, float] = {}
    for name in assets.MODELS:
        model, runtime = read(name, directory), session(name, directory)
        worst = 0.0
        for batch in (1, 2, 5, 16):
            inputs = sample_inputs(name, batch)
            feed = {key: value.numpy() for key, value in zip(INPUTS[name], inputs, strict=True)}
            actual: npt.NDArray[np.float32] = runtime.run([OUTPUTS[name]], feed)[0]
            with torch.inference_mode():
                expected = model(*inputs).numpy()
            if actual.shape != expected.shape:
                raise ExportError(f"{name}: shape {actual.shape}, not {expected.shape}")
            worst = max(worst, float(np.abs(actual - expected).max()))
        if not worst < TOLERANCE:
            raise ExportError(f"{name}: ONNX Runtime differs from torch by {worst:.2g}")
        differences[name] = worst
        logger.info("%s: ONNX Runtime differs from torch by at most %.1g", name, worst)
    return differences


def sample_inputs(name: assets.ModelName, batch: int) -> tuple[torch.Tensor, ...]:
    """Seeded inputs of the right shapes."""
    generator = torch.Generator().manual_seed(batch)
    rng = np.random.default_rng(batch)
    words = torch.from_numpy(tokens.encode_all([grammar.sample_scene(rng) for _ in range(batch)]))
    image = torch.rand(batch, 3, 32, 32, generator=generator)
    if name == "discriminator":
        return image, words
    return image * 2 - 1, torch.rand(batch, generator=generator), words


def _halve(graph: onnx.GraphProto) -> None:
    """Stores large float32 initialisers as float16 behind a cast."""
    casts: list[onnx.NodeProto] = []
    for initializer in graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype != np.float32 or array.size < _HALVED_FROM:
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)

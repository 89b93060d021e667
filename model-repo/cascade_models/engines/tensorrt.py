"""Builds TensorRT engines from ONNX on the GPU that will run them, and runs them on torch's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cascade_models.engines import Denoiser, EngineError, Run, building

if TYPE_CHECKING:
    import torch

FILE: Final = "engine.plan"


@dataclass(frozen=True)
class Range:
    """Shapes of one input: the smallest (one image without guidance), that of the usual batch, and the largest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


def ranges(
    shapes: Mapping[str, tuple[int, ...]], growing: Mapping[str, Sequence[int]], *, batch: int
) -> dict[str, Range]:
    """The range of each input for 1 to ``batch`` images, from the shapes for one image.

    Dimensions that grow with the batch begin at 1: with guidance an image has two rows, but without it only one.
    """

    def at(name: str, images: int) -> tuple[int, ...]:
        return tuple(size * images if place in growing[name] else size for place, size in enumerate(shapes[name]))

    def least(name: str) -> tuple[int, ...]:
        return tuple(1 if place in growing[name] else size for place, size in enumerate(shapes[name]))

    return {name: Range(least(name), at(name, max(1, batch // 2)), at(name, batch)) for name in shapes}


def library() -> Any:
    """The module ``tensorrt``; raises EngineError if it is not installed or there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise EngineError("engine tensorrt needs a GPU, and there is none here: use engine diffusers or onnxruntime")
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"tensorrt is not installed here ({error}): install it on the GPU machine, or use engine diffusers"
        ) from None
    return tensorrt


def identity() -> dict[str, str]:
    """What a built engine depends on besides its network: the GPU and versions."""
    import torch

    trt = library()
    major, minor = torch.cuda.get_device_capability()
    return {"gpu": torch.cuda.get_device_name(), "capability": f"{major}.{minor}", "tensorrt": trt.__version__}


def prepare(denoiser: Denoiser) -> Path:
    """The file of the denoiser's engine for this GPU, for batches from 1 to the denoiser's largest."""
    library()
    onnx = denoiser.onnx()
    planned = ranges(*denoiser.shapes(), batch=denoiser.batch)
    folder = building.built(
        {**denoiser.identity, **identity(), "shapes": planned}, lambda folder: build(onnx, folder, planned)
    )
    return folder / FILE


def build(onnx: Path, folder: Path, shapes: Mapping[str, Range]) -> None:
    """Write ``engine.plan`` into ``folder``; raises EngineError with TensorRT's message."""
    trt = library()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # The engine uses the number formats of the network. TensorRT 11 always does, and no longer has the flag.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        said = "; ".join(str(parser.get_error(place)) for place in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot read the network ({said}): use engine diffusers or onnxruntime")
    profile = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        name = network.get_input(place).name
        profile.set_shape(name, shapes[name].least, shapes[name].usual, shapes[name].most)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("TensorRT built no engine; its log says why: try a smaller batch, or use engine diffusers")
    (folder / FILE).write_bytes(plan)


def bind(artefact: Path, device: torch.device) -> Run:
    """A function that runs the engine of a file, on torch's current stream."""
    import torch

    trt = library()
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(artefact.read_bytes())
    if engine is None:
        raise EngineError(f"{artefact} is not an engine for this GPU and TensorRT: remove its folder and start again")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    (output,) = (name for name in names if name not in inputs)
    kinds = {
        trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.BF16: torch.bfloat16,
    }  # fmt: skip
    kind = kinds[engine.get_tensor_dtype(output)]

    def run(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        given = {name: tensors[name].to(device).contiguous() for name in inputs}
        for name, tensor in given.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        result = torch.empty(tuple(context.get_tensor_shape(output)), dtype=kind, device=device)
        context.set_tensor_address(output, result.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError("TensorRT refused to run the batch; its log says why: is it larger than the engine's?")
        return result

    return run

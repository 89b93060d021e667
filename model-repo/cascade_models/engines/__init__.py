"""What runs a network: one module per engine, each an `EngineModule`, loaded only when a variant names it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

ENGINES: Final = ("diffusers", "onnxruntime", "tensorrt")
"""What a manifest may name: each is the module of its name in this package."""

Run = Callable[[Mapping[str, "torch.Tensor"]], "torch.Tensor"]
"""A denoiser as an engine runs it: from the tensors of a call, by name, to its one output."""


class EngineError(RuntimeError):
    """An engine cannot load a network; the message says why and what to do."""


class OutOfMemory(RuntimeError):
    """A batch does not fit into memory; the message names its size."""


class Network(Protocol):
    """A loaded network: arrays in, in the order of its inputs, its one output back; not thread-safe."""

    def __call__(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]: ...


class Denoiser(Protocol):
    """The denoiser of a pipeline as an engine gets it to prepare; `denoisers` has them."""

    @property
    def module(self) -> torch.nn.Module:
        """What torch runs."""

    @property
    def identity(self) -> Mapping[str, object]:
        """All that what is built of it depends on, beside the engine."""

    @property
    def batch(self) -> int:
        """The largest number of images that it is called for at once."""

    def onnx(self) -> Path:
        """Its ONNX file, written at the first call and kept; raises EngineError where it cannot be written."""

    def shapes(self) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, Sequence[int]]]:
        """Of each input its shape for one image, and which of its dimensions grow with the batch."""


class EngineModule(Protocol):
    """What the module of an engine offers. One that runs built-in models too has ``load`` beside these, see `load`."""

    def prepare(self, denoiser: Denoiser) -> Any:
        """The engine's artefact of a denoiser, built at the first start and kept; raises EngineError."""

    def bind(self, artefact: Any, device: torch.device) -> Run | None:
        """What runs an artefact on a device from now on, None if torch itself does; raises EngineError."""


def named(engine: str) -> EngineModule:
    """The engine of that name, one of `ENGINES`."""
    return cast(EngineModule, importlib.import_module(f"{__name__}.{engine}"))


def that_load() -> tuple[str, ...]:
    """The engines that run a network from its file alone, as the built-in models need it."""
    return tuple(engine for engine in ENGINES if hasattr(named(engine), "load"))


def load(engine: str, file: Path, inputs: Sequence[str]) -> Network:
    """The network of ``file``, run by ``engine``, called with arrays in the order of ``inputs``.

    Raises EngineError where the engine is unknown, not built yet or not installed, or the file is not a network.
    """
    if engine not in that_load():
        raise EngineError(f"engine {engine!r} cannot run {file.name}: use one of {', '.join(that_load())}")
    module: Any = named(engine)
    return cast(Network, module.load(file, inputs))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error says that memory ran out: they have no type for it in common."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )

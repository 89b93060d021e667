"""Engines run networks: one module per engine, each an `EngineModule`, which is loaded only if a variant names it."""

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
"""The engines that a manifest may name; each is a module of this package."""

Run = Callable[[Mapping[str, "torch.Tensor"]], "torch.Tensor"]
"""Runs a denoiser: takes the tensors of a call by name, and returns its output."""


class EngineError(RuntimeError):
    """An engine cannot load a network; the message says why and what to do."""


class OutOfMemory(RuntimeError):
    """A batch does not fit into memory; the message names its size."""


class Network(Protocol):
    """A loaded network: takes arrays in the order of its inputs, and returns its one output. Not thread-safe."""

    def __call__(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]: ...


class Denoiser(Protocol):
    """The denoiser of a pipeline, from which an engine builds its artefact; see `denoisers`."""

    @property
    def module(self) -> torch.nn.Module:
        """The denoiser as a module of torch."""

    @property
    def identity(self) -> Mapping[str, object]:
        """All, except the engine, that an artefact of this denoiser depends on."""

    @property
    def quantised(self) -> bool:
        """Whether it shall compute in int8."""

    @property
    def batch(self) -> int:
        """The largest number of images in a call."""

    def onnx(self) -> Path:
        """The ONNX file of the denoiser, written at the first call and kept; raises EngineError."""

    def shapes(self) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, Sequence[int]]]:
        """The shape of each input for one image, and the dimensions of each input that grow with the batch."""


class EngineModule(Protocol):
    """The functions in the module of an engine. If it can run built-in models, it also has ``load``; see `load`."""

    def prepare(self, denoiser: Denoiser) -> Any:
        """The engine's artefact of a denoiser, which is built at the first start and kept; raises EngineError."""

    def bind(self, artefact: Any, device: torch.device) -> Run | None:
        """The function that runs an artefact on a device, or None if torch itself does that; raises EngineError."""


def named(engine: str) -> EngineModule:
    """The module of an engine, which is one of `ENGINES`."""
    return cast(EngineModule, importlib.import_module(f"{__name__}.{engine}"))


def that_load() -> tuple[str, ...]:
    """The engines that can run a network from its file, which is what the built-in models need."""
    return tuple(engine for engine in ENGINES if hasattr(named(engine), "load"))


def load(engine: str, file: Path, inputs: Sequence[str]) -> Network:
    """The network in ``file``, run by ``engine``; it is called with arrays in the order of ``inputs``.

    Raises EngineError if the engine cannot do that or is not installed, or if the file is not a network.
    """
    if engine not in that_load():
        raise EngineError(f"engine {engine!r} cannot run {file.name}: use one of {', '.join(that_load())}")
    module: Any = named(engine)
    return cast(Network, module.load(file, inputs))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; libraries have no common exception for that."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )

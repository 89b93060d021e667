"""What runs a network: one module per engine behind the `Network` protocol, loaded only when a variant names it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

ENGINES: Final = ("diffusers", "onnxruntime", "tensorrt")
"""What a manifest may name; `denoisers` runs those of diffusers pipelines with each of them."""

AVAILABLE: Final = ("onnxruntime",)
"""Those that run a network from its file alone, as the built-in models need it."""


class EngineError(RuntimeError):
    """An engine cannot load a network; the message says why and what to do."""


class OutOfMemory(RuntimeError):
    """A batch does not fit into memory; the message names its size."""


class Network(Protocol):
    """A loaded network: arrays in, in the order of its inputs, its one output back; not thread-safe."""

    def __call__(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]: ...


class Loader(Protocol):
    """What an engine's module offers as ``load``."""

    def __call__(self, file: Path, inputs: Sequence[str]) -> Network: ...


def load(engine: str, file: Path, inputs: Sequence[str]) -> Network:
    """The network of ``file``, run by ``engine``, called with arrays in the order of ``inputs``.

    Raises EngineError where the engine is unknown, not built yet or not installed, or the file is not a network.
    """
    if engine not in AVAILABLE:
        raise EngineError(f"engine {engine!r} cannot run {file.name}: use one of {', '.join(AVAILABLE)}")
    module = importlib.import_module(f"{__name__}.{engine}")
    return cast(Loader, module.load)(file, inputs)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error says that memory ran out: they have no type for it in common."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )

"""Finds out how a diffusers pipeline calls its denoiser: the tensors of a call by name, and its other arguments.

Pipelines pass different arguments to their denoisers, and this module knows none of them beforehand. It watches a call
and names the tensors after the arguments. Calls of different batch sizes show which dimensions grow with the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cascade_models.engines import EngineError

Tensors = dict[str, torch.Tensor]


class _Watched(Exception):
    """Ends the run of a pipeline once its denoiser has been called."""


@dataclass(frozen=True)
class DenoiserCall:
    """One call of a denoiser: its tensors by dotted name, and its other arguments."""

    tensors: Tensors
    others: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> DenoiserCall:
        """The call with these arguments; tensors in mappings are named ``argument.key``."""
        tensors: Tensors = {}
        others: dict[str, Any] = {}
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                tensors[name] = value
            elif isinstance(value, Mapping) and any(isinstance(part, torch.Tensor) for part in value.values()):
                tensors |= {f"{name}.{key}": part for key, part in value.items() if part is not None}
            elif isinstance(value, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in value):
                raise EngineError(f"the pipeline gives its denoiser lists of tensors ({name}): use engine diffusers")
            elif name != "return_dict":
                others[name] = value
        return cls(tensors, others)

    def arguments(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The arguments of the same call, with other tensors."""
        built: dict[str, Any] = {**self.others, "return_dict": False}
        for name, tensor in tensors.items():
            argument, dot, key = name.partition(".")
            if dot:
                built.setdefault(argument, {})[key] = tensor
            else:
                built[argument] = tensor
        return built

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def watch(denoiser: torch.nn.Module, run: Callable[[], object]) -> DenoiserCall:
    """The first call of ``denoiser`` by ``run``, which ends there."""
    bind = binder(denoiser)
    seen: list[DenoiserCall] = []

    def forward(*arguments: Any, **named: Any) -> None:
        call = bind(*arguments, **named)
        seen.append(DenoiserCall({name: tensor.clone() for name, tensor in call.tensors.items()}, call.others))
        raise _Watched

    original = denoiser.forward
    denoiser.forward = forward
    try:
        run()
    except _Watched:
        pass
    finally:
        denoiser.forward = original
    if not seen:
        raise EngineError("the pipeline makes images without calling its denoiser: use engine diffusers")
    return seen[0]


def binder(denoiser: torch.nn.Module) -> Callable[..., DenoiserCall]:
    """A function that makes a `DenoiserCall` of positional and named arguments."""
    signature = inspect.signature(denoiser.forward)
    return lambda *arguments, **named: DenoiserCall.of(signature.bind(*arguments, **named).arguments)


def growing(small: DenoiserCall, large: DenoiserCall) -> dict[str, list[int]]:
    """The dimensions of each tensor that grow with the batch, from calls of different batch sizes."""
    shapes, others = small.shapes(), large.shapes()
    if shapes.keys() != others.keys():
        raise EngineError("the pipeline's calls differ with the batch size: use engine diffusers")
    return {
        name: [place for place, (one, other) in enumerate(zip(shapes[name], others[name], strict=True)) if one != other]
        for name in shapes
    }

"""Muon for the blocks' matrices and AdamW for the rest, with one warm-up and one linear decay to zero.

Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix by a Newton-Schulz iteration. torch's own runs it
in bfloat16, which is slow on a CPU; this one uses float32 and batches matrices of equal shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MATRIX_RATE = 4e-3
_OTHER_RATE = 2e-3


class Muon:
    """Orthogonalised Nesterov momentum for two-dimensional parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.shape, []).append(parameter)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.momentum = momentum
        self.weight_decay = weight_decay

    def step(self, rate: float) -> None:
        """One update at learning rate ``rate``, from the parameters' gradients."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradients = torch.stack([_gradient(parameter) for parameter in group])
            buffer.lerp_(gradients, 1 - self.momentum)
            updates = _orthogonalise(gradients.lerp_(buffer, self.momentum))
            scale = 0.2 * rate * max(group[0].shape) ** 0.5
            with torch.no_grad():
                for parameter, update in zip(group, updates, strict=True):
                    parameter.mul_(1 - rate * self.weight_decay).sub_(update, alpha=scale)


class Optimiser:
    """Both optimisers of a denoiser, driven by training progress in 0..1."""

    def __init__(self, network: nn.Module, blocks: nn.Module, *, warmup: float = 0.01, decay: float = 0.6) -> None:
        matrices = [parameter for parameter in blocks.parameters() if parameter.ndim == 2]
        chosen = {id(parameter) for parameter in matrices}
        self.parameters = list(network.parameters())
        others = [parameter for parameter in self.parameters if id(parameter) not in chosen]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=_OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.warmup = warmup
        self.decay = decay

    def step(self, progress: float) -> None:
        """Clips the gradients to norm 1, updates at the rate that ``progress`` calls for, and clears them."""
        factor = min(1.0, (progress + 1e-3) / self.warmup, max(0.0, 1.0 - progress) / self.decay)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = _OTHER_RATE * factor
        self.adam.step()
        self.muon.step(_MATRIX_RATE * factor)
        for parameter in self.parameters:
            parameter.grad = None


class Average:
    """Exponential moving average of a network's parameters, ramped up so that early values are forgotten."""

    def __init__(self, network: nn.Module, target: nn.Module, rate: float) -> None:
        self.target = target
        self.target.load_state_dict(network.state_dict())
        self.rate = rate
        self.updates = 0

    def update(self, network: nn.Module) -> None:
        """Moves the average towards ``network``."""
        self.updates += 1
        rate = min(self.rate, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(network.parameters()), 1 - rate)


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices to a stack ``[N, rows, columns]``, roughly.

    The iteration runs on the Gram matrix: every factor is a polynomial in it, so they commute, and the wide matrix is
    touched twice only. That saves a third of the work for matrices four times as wide as tall.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    gram = x @ x.transpose(1, 2)
    identity = torch.eye(gram.shape[1])
    product = identity.expand_as(gram)
    for iteration in range(_ITERATIONS):
        factor = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
        product = factor if iteration == 0 else factor @ product
        if iteration < _ITERATIONS - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.transpose(1, 2) if tall else x

"""EfficientNetV2-S (Tan and Le, arXiv 2104.00298, table 4) with the prompt as a second input.

Modules have the same names as in torchvision, so that its pretrained weights can be loaded (`--init`). The prompt, as
the mean of the embeddings of its words and pairs of words, is joined to the image's features.

The network is defined here because torchvision, which timm imports too, is on PyPI only in a build for CUDA. With the
CPU build of torch that trains here, it cannot be imported ("operator torchvision::nms does not exist").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from cascade_models.discriminators import words

STOCHASTIC_DEPTH = 0.2
PROMPT_WIDTH = 128
DIVISOR = 8
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A row of the table. The first block has the stride; ``fused`` blocks expand and filter in one convolution."""

    fused: bool
    expand: int
    stride: int
    channels: int
    layers: int


STAGES = (
    Stage(True, 1, 1, 24, 2),
    Stage(True, 4, 2, 48, 4),
    Stage(True, 4, 2, 64, 4),
    Stage(False, 4, 2, 128, 6),
    Stage(False, 6, 1, 160, 9),
    Stage(False, 6, 2, 256, 15),
)
STEM, LAST = 24, 1280


class EfficientNetDiscriminator(nn.Module):  # type: ignore[misc]
    """``(image [B, 3, S, S] normalised, tokens [B, L]) -> confidence [B]``; ``width`` and ``depth`` scale it down."""

    def __init__(self, *, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        channels = _scaled(STEM, width)
        layers: list[nn.Module] = [_convolution(3, channels, 3, stride=2)]
        blocks = sum(_repeated(stage.layers, depth) for stage in STAGES)
        done = 0
        for stage in STAGES:
            outputs = _scaled(stage.channels, width)
            made: list[nn.Module] = []
            for index in range(_repeated(stage.layers, depth)):
                kind = FusedMBConv if stage.fused else MBConv
                stride = stage.stride if index == 0 else 1
                made.append(kind(channels, outputs, stage.expand, stride, STOCHASTIC_DEPTH * done / blocks))
                channels, done = outputs, done + 1
            layers.append(nn.Sequential(*made))
        last = _scaled(LAST, width)
        layers.append(_convolution(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.words = nn.Embedding(1 + words.BUCKETS, PROMPT_WIDTH, padding_idx=0)
        self.joined = nn.Linear(last + PROMPT_WIDTH, 256)
        self.dropout = nn.Dropout(0.2)
        self.good = nn.Linear(256, 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self._initialise()

    def logits(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Uncalibrated logits ``[B]`` that the image is good."""
        seen = self.features(image).mean(dim=(2, 3))
        present = (tokens > 0).to(seen.dtype)[:, :, None]
        read = (self.words(tokens) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        return self.good(self.dropout(nn.functional.silu(self.joined(torch.cat((seen, read), dim=1)))))[:, 0]

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.scale * self.logits(image, tokens) + self.offset)

    def pretrained(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Load the weights that fit; returns the names of this network's weights that were not loaded."""
        mine = self.state_dict()
        fitting = {name: value for name, value in state.items() if name in mine and mine[name].shape == value.shape}
        self.load_state_dict(fitting, strict=False)
        return sorted(mine.keys() - fitting.keys())

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class FusedMBConv(nn.Module):  # type: ignore[misc]
    """Fused-MBConv: one full convolution that expands, one that projects."""

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int, drop: float) -> None:
        super().__init__()
        inner = inputs * expand
        if expand == 1:
            layers = [_convolution(inputs, outputs, 3, stride=stride)]
        else:
            layers = [_convolution(inputs, inner, 3, stride=stride), _convolution(inner, outputs, 1, active=False)]
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _residual(self, x)


class MBConv(nn.Module):  # type: ignore[misc]
    """MBConv: expand, filter by channel, squeeze and excite, project."""

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int, drop: float) -> None:
        super().__init__()
        inner = inputs * expand
        self.block = nn.Sequential(
            _convolution(inputs, inner, 1),
            _convolution(inner, inner, 3, stride=stride, groups=inner),
            SqueezeExcitation(inner, max(1, inputs // 4)),
            _convolution(inner, outputs, 1, active=False),
        )
        self.residual = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _residual(self, x)


class SqueezeExcitation(nn.Module):  # type: ignore[misc]
    """Weights the channels by a summary of the whole image."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(nn.functional.silu(self.fc1(pooled))))


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, nn.SiLU()) if active else nn.Sequential(*layers)


def _residual(block: FusedMBConv | MBConv, x: torch.Tensor) -> torch.Tensor:
    """The block's result added to its input; in training, the block is skipped at random (stochastic depth)."""
    found = block.block(x)
    if not block.residual:
        return found
    if block.training and block.drop > 0:
        kept = 1 - block.drop
        found = found * torch.empty(len(x), 1, 1, 1, device=x.device).bernoulli_(kept) / kept
    return x + found


def _scaled(channels: int, width: float) -> int:
    return channels if width == 1.0 else max(DIVISOR, round(channels * width / DIVISOR) * DIVISOR)


def _repeated(layers: int, depth: float) -> int:
    return max(1, round(layers * depth))

"""The denoiser: a plain transformer over 16 image patches and 7 prompt tokens that predicts the clean image.

Both variants share this architecture (1.07 M parameters); they differ in training and in the number of steps. There
is no latent space: a patch is 8x8 RGB pixels, 192 numbers in a stream 128 wide. That narrow stream is why the network
predicts the clean image, which is low-dimensional, and not the noise, which is not.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cascade_models.shapes import render, tokens

WIDTH = 128
DEPTH = 5
HEADS = 4
PATCH = 8
FREQUENCIES = 64
GRID = render.IMAGE_SIZE // PATCH
PATCHES = GRID * GRID
PATCH_VALUES = 3 * PATCH * PATCH


class Block(nn.Module):  # type: ignore[misc]
    """Pre-norm attention and MLP; both write to the residual stream through zero-initialised matrices."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length, width = x.shape[1], x.shape[2]
        # Plain products: at two dozen tokens the fused CPU attention is slower.
        q, k, v = self.qkv(self.norm1(x)).reshape(-1, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(-1, length, width))
        return x + self.down(functional.relu(self.up(self.norm2(x))))


class DenoiserNetwork(nn.Module):  # type: ignore[misc]
    """``(x [B,3,32,32] in about -1..1 plus noise, t [B] in 0..1, tokens [B,7,3]) -> x0 [B,3,32,32]``."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_in = nn.Linear(PATCH_VALUES, WIDTH)
        self.patch_position = nn.Parameter(torch.randn(PATCHES, WIDTH) * 0.02)
        self.words = nn.Embedding(tokens.VOCABULARY_SIZE, WIDTH)
        self.slot_position = nn.Parameter(torch.randn(tokens.SLOTS, WIDTH) * 0.02)
        self.time_mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.patch_out = nn.Linear(WIDTH, PATCH_VALUES)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.zeros_(self.patch_out.weight)
        nn.init.zeros_(self.patch_out.bias)
        frequencies = torch.exp(torch.linspace(0.0, float(torch.log(torch.tensor(300.0))), FREQUENCIES))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        patches = (
            x.reshape(-1, 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(-1, PATCHES, PATCH_VALUES)
        )
        angles = t[:, None] * self.frequencies
        when = self.time_mlp(torch.cat((torch.cos(angles), torch.sin(angles)), dim=1))[:, None, :]
        image = self.patch_in(patches) + self.patch_position + when
        prompt = self.words(words).sum(dim=2) + self.slot_position + when
        stream = torch.cat((image, prompt), dim=1)
        for block in self.blocks:
            stream = block(stream)
        values = self.patch_out(self.norm(stream[:, :PATCHES]))
        pixels = values.reshape(-1, GRID, GRID, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
        return pixels.reshape(-1, 3, render.IMAGE_SIZE, render.IMAGE_SIZE)

"""Denoisers and decoders of public models from their published configurations, with random weights.

How long a network takes does not depend on its weights, so nothing is downloaded. Sizes are those at which the models
are used; ``smoke`` makes everything small enough for a CPU, with the same kinds of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel

GUIDED = 2
"""Rows per image: classifier-free guidance asks the denoiser with and without the prompt."""

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One model: how to make its networks, and how its pipeline calls them.

    Attributes:
        variant: the catalogue's name.
        make: the denoiser.
        call: the denoiser's arguments for that many rows.
        latents: channels, height and width of what is decoded.
    """

    variant: str
    make: Callable[[], torch.nn.Module]
    call: Callable[[int], Arguments]
    decoder: Callable[[], torch.nn.Module]
    latents: tuple[int, int, int]


def architectures(*, smoke: bool) -> list[Architecture]:
    """Those of SD 1.5, SDXL and SD3.5 Medium."""
    return [_sd15(smoke), _sdxl(smoke), _sd35_medium(smoke)]


def _sd15(smoke: bool) -> Architecture:
    size, width = (8, 32) if smoke else (64, 768)
    blocks = (32, 32, 64, 64) if smoke else (320, 640, 1280, 1280)
    return Architecture(
        "sd15",
        lambda: UNet2DConditionModel(
            sample_size=size, block_out_channels=blocks, cross_attention_dim=width, attention_head_dim=8
        ),
        lambda rows: {
            "sample": torch.randn(rows, 4, size, size),
            "timestep": torch.tensor(500.0),
            "encoder_hidden_states": torch.randn(rows, 77, width),
        },
        lambda: _decoder(4, smoke),
        (4, size, size),
    )


def _sdxl(smoke: bool) -> Architecture:
    size, width, pooled = (8, 64, 32) if smoke else (128, 2048, 1280)
    ids = 8 if smoke else 256

    def make() -> torch.nn.Module:
        return UNet2DConditionModel(
            sample_size=size,
            block_out_channels=(32, 64, 64) if smoke else (320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 1) if smoke else (1, 2, 10),
            attention_head_dim=(4, 8, 8) if smoke else (5, 10, 20),
            cross_attention_dim=width,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=ids,
            projection_class_embeddings_input_dim=pooled + 6 * ids,
        )

    def call(rows: int) -> Arguments:
        added = {"text_embeds": torch.randn(rows, pooled), "time_ids": torch.full((rows, 6), 1024.0)}
        return {
            "sample": torch.randn(rows, 4, size, size),
            "timestep": torch.tensor(500.0),
            "encoder_hidden_states": torch.randn(rows, 77, width),
            "added_cond_kwargs": added,
        }

    return Architecture("sdxl", make, call, lambda: _decoder(4, smoke), (4, size, size))


def _sd35_medium(smoke: bool) -> Architecture:
    size, width, pooled = (8, 32, 32) if smoke else (128, 4096, 2048)
    heads, layers = (2, 2) if smoke else (24, 24)

    def make() -> torch.nn.Module:
        return SD3Transformer2DModel(
            sample_size=size,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=layers,
            attention_head_dim=64,
            num_attention_heads=heads,
            joint_attention_dim=width,
            caption_projection_dim=64 * heads,
            pooled_projection_dim=pooled,
            pos_embed_max_size=size if smoke else 384,
            dual_attention_layers=tuple(range(1 if smoke else 13)),
            qk_norm="rms_norm",
        )

    def call(rows: int) -> Arguments:
        return {
            "hidden_states": torch.randn(rows, 16, size, size),
            "timestep": torch.full((rows,), 500.0),
            "encoder_hidden_states": torch.randn(rows, 77 if smoke else 333, width),
            "pooled_projections": torch.randn(rows, pooled),
        }

    return Architecture("sd35-medium", make, call, lambda: _decoder(16, smoke), (16, size, size))


def _decoder(channels: int, smoke: bool) -> torch.nn.Module:
    blocks = (16, 16, 32, 32) if smoke else (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=blocks,
        layers_per_block=2,
        latent_channels=channels,
        norm_num_groups=8 if smoke else 32,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )

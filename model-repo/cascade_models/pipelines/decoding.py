"""Pictures of a diffusers pipeline's latents while it is still drawing: what a pipeline does after its last step.

Pipelines decode only what they have finished. They differ in how latents are packed (2 x 2 places as one token) and in
how they are scaled for the decoder (by one factor, or by a mean and a deviation of each channel).
"""

from __future__ import annotations

from typing import Any

import torch


def pictures(pipe: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images ``[B, 3, height, width]`` in 0..1 of a pipeline's latents, as the pipeline's scheduler knows them."""
    vae = pipe.vae
    scaled = _scaled(vae, _unpacked(pipe, latents, height, width))
    decoded = vae.decode(_patches_laid_out(pipe, scaled).to(vae.dtype), return_dict=False)[0]
    if decoded.ndim == 5:  # A video of one frame.
        decoded = decoded[:, :, 0]
    images: torch.Tensor = pipe.image_processor.postprocess(decoded, output_type="pt")
    return images


def _unpacked(pipe: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if hasattr(pipe, "_unpack_latents"):
        return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    if hasattr(pipe, "_unpack_latents_with_ids"):
        side = 2 * pipe.vae_scale_factor
        return latents.transpose(1, 2).unflatten(2, (height // side, width // side))
    return latents


def _scaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The latents as the decoder was trained on them."""
    settings = vae.config
    if hasattr(vae, "bn"):
        mean, deviation = vae.bn.running_mean, (vae.bn.running_var + settings.batch_norm_eps).sqrt()
    elif getattr(settings, "latents_mean", None) is not None and hasattr(settings, "latents_std"):
        mean, deviation = torch.tensor(settings.latents_mean), torch.tensor(settings.latents_std)
    else:
        return latents / settings.scaling_factor + (getattr(settings, "shift_factor", None) or 0.0)
    by_channel = (1, -1, *[1] * (latents.ndim - 2))
    return latents * deviation.to(latents).view(by_channel) + mean.to(latents).view(by_channel)


def _patches_laid_out(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return pipe._unpatchify_latents(latents) if hasattr(pipe, "_unpatchify_latents") else latents

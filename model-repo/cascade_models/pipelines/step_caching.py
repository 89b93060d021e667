"""Step caches: a run reuses parts of its earlier steps, as diffusers does it, and no other run sees what it keeps.

``first-block`` computes the first block of each step. If that changed little since the last whole step (by less than
the threshold, relative to its mean size over the batch), the other blocks are taken to change nothing. ``taylor-seer``
computes the attention of every n-th step, and continues its course in the steps between. diffusers has more kinds:
those that need functions written for a model, numbers measured on it, or videos are not offered.
"""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import torch
from diffusers.models.cache_utils import CacheMixin

from cascade_models.recipe import FIRST_BLOCK, WARM_UP, RecipeError


def check(denoiser: torch.nn.Module) -> None:
    """Raises RecipeError if diffusers has no step caches for a denoiser of this class."""
    if not isinstance(denoiser, CacheMixin):
        name = type(denoiser).__name__
        raise RecipeError("stepCache", f"diffusers {diffusers.__version__} has none for {name}: leave it out")


def of_run(denoiser: torch.nn.Module, step_cache: str) -> Any:
    """The denoiser as one run calls it: with a cache of its own, and the same weights.

    The modules are copied, since diffusers keeps the cache in them, and their tensors are not. Blocks that are computed
    whole stay those of the denoiser, so that they are not compiled again for each run.
    """
    check(denoiser)
    tensors = {id(tensor): tensor for tensor in (*denoiser.parameters(), *denoiser.buffers())}
    own = copy.deepcopy(denoiser, tensors)
    if step_cache.startswith(FIRST_BLOCK):
        for name, blocks in denoiser.named_children():
            if isinstance(blocks, torch.nn.ModuleList):
                for block, whole in zip(own.get_submodule(name), blocks, strict=True):
                    block.forward = whole.__call__
    own.enable_cache(_configuration(step_cache, next(denoiser.parameters()).dtype))
    return own


def _configuration(step_cache: str, dtype: torch.dtype) -> Any:
    kind, _, amount = step_cache.partition(":")
    if kind == FIRST_BLOCK:
        return diffusers.FirstBlockCacheConfig(threshold=float(amount))
    return diffusers.TaylorSeerCacheConfig(
        cache_interval=int(amount), disable_cache_before_step=WARM_UP, taylor_factors_dtype=dtype
    )

"""Trains the heavy denoiser: rectified flow on endless rendered scenes, predicting the clean image.

``x_t = (1 - t) x0 + t noise``; the loss is the squared error of the predicted clean image over ``max(t, 0.15)**2``,
which weighs it like a velocity. A tenth of the prompts are dropped for classifier-free guidance.
"""

from __future__ import annotations

import copy
import pathlib

import numpy as np
import torch

from cascade_models.shapes import grammar, render, tokens
from cascade_models.shapes.training import network, optimisers, progress

BATCH = 32
STEPS = 8_600
_OBJECT_SHARES = (0.18, 0.22, 0.27, 0.33)
_DROPPED = 0.1
_CHECKPOINT_EVERY = 250


def batch(rng: np.random.Generator, size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Training images ``[size, 3, 32, 32]`` in -1..1 and their tokens."""
    counts = rng.choice(4, size=size, p=_OBJECT_SHARES) + 1
    scenes = [grammar.sample_scene(rng, int(count)) for count in counts]
    images = torch.from_numpy(render.render(scenes, rng)).permute(0, 3, 1, 2).contiguous()
    return images * 2 - 1, torch.from_numpy(tokens.encode_all(scenes))


def train(
    seed: int, steps: int = STEPS, minutes: float | None = None, checkpoint: pathlib.Path | None = None
) -> tuple[network.DenoiserNetwork, progress.TrainingStage]:
    """The averaged network after ``steps`` steps or ``minutes`` of wall clock, whichever comes first."""
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 1))
    model = network.DenoiserNetwork()
    optimiser = optimisers.Optimiser(model, model.blocks)
    average = optimisers.Average(model, copy.deepcopy(model).requires_grad_(False), rate=0.9985)
    stage = progress.TrainingStage("heavy", steps, minutes)
    null = torch.from_numpy(tokens.null(BATCH))
    while stage.progress < 1.0:
        clean, words = batch(rng)
        words = torch.where(torch.rand(BATCH, 1, 1) < _DROPPED, null, words)
        t = torch.sigmoid(0.6 + 1.2 * torch.randn(BATCH))
        level = t[:, None, None, None]
        predicted = model((1 - level) * clean + level * torch.randn_like(clean), t, words)
        error = (predicted - clean).square().mean(dim=(1, 2, 3)) / t.clamp(min=0.15).square()
        loss = error.mean()
        loss.backward()
        optimiser.step(stage.progress)
        average.update(model)
        stage.advance(float(loss.detach()))
        if checkpoint is not None and stage.step % _CHECKPOINT_EVERY == 0:
            torch.save(average.target.state_dict(), checkpoint)
    return average.target, stage

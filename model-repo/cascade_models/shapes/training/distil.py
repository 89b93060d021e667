"""Trains the light denoiser by consistency distillation of the heavy one; both have the same size.

On a grid of noise levels, the teacher makes one guided Euler step from real data plus noise. The student's prediction
at the upper level must equal that of its own running average at the lower level, and at the lowest level that of the
teacher. So the student learns to jump to the end of the teacher's path, guidance included (Luo et al., Latent
Consistency Models, 2023).
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from cascade_models.shapes import tokens
from cascade_models.shapes.training import heavy, network, optimisers, progress

STEPS = 1000
KNOTS = 16
GUIDANCE = 2.0
_RATE = 5e-4
_AT_START = heavy.BATCH // 4


def _guided(
    teacher: network.DenoiserNetwork, x: torch.Tensor, level: torch.Tensor, words: torch.Tensor, null: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        both = teacher(torch.cat((x, x)), torch.cat((level, level)), torch.cat((words, null)))
    with_prompt, without = both.chunk(2)
    return without + GUIDANCE * (with_prompt - without)


def train(
    teacher: network.DenoiserNetwork, seed: int, steps: int = STEPS, minutes: float | None = None
) -> tuple[network.DenoiserNetwork, progress.TrainingStage]:
    """The averaged student after ``steps`` steps or ``minutes`` of wall clock, whichever comes first."""
    torch.manual_seed(seed + 1)
    rng = np.random.default_rng((seed, 2))
    teacher.eval().requires_grad_(False)
    student = copy.deepcopy(teacher).requires_grad_(True)
    average = optimisers.Average(student, copy.deepcopy(student).requires_grad_(False), rate=0.96)
    optimiser = torch.optim.AdamW(student.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    stage = progress.TrainingStage("light", steps, minutes)
    null = torch.from_numpy(tokens.null(heavy.BATCH))
    while stage.progress < 1.0:
        clean, words = heavy.batch(rng)
        knots = torch.randint(1, KNOTS + 1, (heavy.BATCH,))
        # One call in every generation starts from pure noise: the hardest level gets a quarter of the batch.
        knots[:_AT_START] = KNOTS
        upper, lower = knots / KNOTS, (knots - 1) / KNOTS
        level, following = upper[:, None, None, None], lower[:, None, None, None]
        x = (1 - level) * clean + level * torch.randn_like(clean)
        with torch.no_grad():
            guess = _guided(teacher, x, upper, words, null)
            target = average.target(guess + (x - guess) * (following / level), lower, words)
            target = torch.where(following == 0, guess, target)
        error = (student(x, upper, words) - target).square().mean(dim=(1, 2, 3))
        loss = (error + 1e-4).sqrt().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min(1.0, 2 * (1 - stage.progress))
        optimiser.step()
        optimiser.zero_grad()
        average.update(student)
        stage.advance(float(loss.detach()))
    return average.target, stage

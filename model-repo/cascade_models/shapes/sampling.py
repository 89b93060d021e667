"""Makes images from tokens and seeds with a denoiser, by guided flow steps (heavy) or consistency steps (light).

The denoiser is any callable ``(x float32 [B,3,32,32], t float32 [B], tokens int64 [B,7,3]) -> x0 [B,3,32,32]``, such as
a session of torch or ONNX Runtime. The noise of each image only depends on its own seed, so the other images of a batch
change it at most by rounding. Before every step, ``poll`` is asked which images are still wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from cascade_models.shapes import render, tokens

Kind = Literal["heavy", "light"]
Floats = npt.NDArray[np.float32]
Denoise = Callable[[Floats, Floats, npt.NDArray[np.int64]], Floats]
Poll = Callable[[int], Sequence[bool] | None]
Preview = Callable[[int, npt.NDArray[np.uint8]], None]

SHAPE: Final = (3, render.IMAGE_SIZE, render.IMAGE_SIZE)
LIGHT_TIMES: Final = {1: (1.0,), 2: (1.0, 0.6), 3: (1.0, 0.75, 0.5), 4: (1.0, 0.8, 0.6, 0.4)}


class BatchCancelled(Exception):
    """All images of the batch were cancelled."""


def generate(
    denoise: Denoise,
    words: npt.NDArray[np.int64],
    seeds: Sequence[int],
    *,
    kind: Kind,
    steps: int,
    guidance: float = 2.0,
    guides: Callable[[int], bool] = lambda step: True,
    poll: Poll | None = None,
    preview: Preview | None = None,
    given: Floats | None = None,
    masks: Floats | None = None,
    strength: float = 1.0,
) -> npt.NDArray[np.uint8]:
    """Images ``[B, 32, 32, 3]`` for tokens ``[B, 7, 3]`` and one seed each.

    Args:
        denoise: the network that belongs to ``kind``.
        words: tokens of the prompts.
        seeds: non-negative integers below 2**64, one per image.
        kind: ``heavy`` for Euler steps of the flow, ``light`` for consistency steps.
        steps: number of steps; heavy 1 or more, light 1 to 4.
        guidance: classifier-free guidance of heavy steps; 1 needs half of the work. Light models ignore it: they have
            learnt theirs in training.
        guides: says of a step's index whether it is guided.
        poll: called with the step's index before each step; returns a truth value per image (False: it is cancelled,
            its work stops and its image is black), or None if all are wanted.
        preview: called after each step except the last, with the step's index and the current images.
        given: images in -1..1 from which others are drawn: they are noised to the level ``strength``, and denoised
            from there, at the levels of the other steps that are below it.
        masks: ``[B, 1, 32, 32]``, 1 where the given images are drawn anew; elsewhere they guide the rest.

    Raises:
        ValueError: shapes, seeds or steps out of range.
        BatchCancelled: ``poll`` wants no image any more.
    """
    if words.ndim != 3 or words.shape[1:] != (tokens.SLOTS, tokens.WORDS):
        raise ValueError(f"tokens must have shape [B, {tokens.SLOTS}, {tokens.WORDS}], not {list(words.shape)}")
    if len(seeds) != len(words):
        raise ValueError(f"{len(words)} prompts need as many seeds, not {len(seeds)}")
    times = step_times(kind, steps)
    skipped = 0 if given is None else max(0, sum(t > strength - 1e-6 for t in times) - 1)
    times = times if given is None else (strength, *times[skipped + 1 :])
    noise = [np.random.Generator(np.random.PCG64(_check_seed(seed))) for seed in seeds]
    x = _normal(noise)
    if given is not None:
        first = np.float32(times[0])
        x = (1 - first) * given + first * x
    images = np.zeros((len(seeds), render.IMAGE_SIZE, render.IMAGE_SIZE, 3), dtype=np.uint8)
    alive = np.arange(len(seeds))
    for index, t in enumerate(times):
        wanted = poll(index) if poll is not None else None
        if wanted is not None:
            keep = np.flatnonzero(np.asarray(wanted, dtype=bool)[alive])
            if len(keep) < len(alive):
                alive, x, noise = alive[keep], x[keep], [noise[position] for position in keep]
        if len(alive) == 0:
            raise BatchCancelled(f"every image was cancelled before step {index + 1} of {steps}")
        guess = _guess(denoise, x, t, words[alive], guidance if kind == "heavy" and guides(skipped + index) else 1.0)
        if given is not None and masks is not None:
            guess = np.where(masks[alive] > 0, guess, given[alive])
        if index + 1 == len(times):
            images[alive] = to_image(guess)
            break
        if preview is not None:
            shown = images.copy()
            shown[alive] = to_image(guess)
            preview(index, shown)
        following = np.float32(times[index + 1])
        if kind == "heavy":
            # An Euler step along the straight path: the guess, with the noise that it implies at the next level.
            x = guess + (x - guess) * (following / np.float32(t))
        else:
            x = (1 - following) * guess + following * _normal(noise)
    return images


def step_times(kind: Kind, steps: int) -> tuple[float, ...]:
    """The noise levels, from 1 downwards, at which a sampler calls its network.

    Raises:
        ValueError: ``steps`` out of range for ``kind``.
    """
    if kind == "light":
        if steps not in LIGHT_TIMES:
            raise ValueError(f"a light model takes 1 to {max(LIGHT_TIMES)} steps, not {steps}")
        return LIGHT_TIMES[steps]
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return tuple(1.0 - index / steps for index in range(steps))


def from_given(images: npt.NDArray[np.uint8]) -> Floats:
    """Clean images ``[B, 3, 32, 32]`` in -1..1 from bytes ``[B, 32, 32, 3]``: the inverse of `to_image`."""
    return from_image(images) * np.float32(2) - np.float32(1)


def to_image(x0: Floats) -> npt.NDArray[np.uint8]:
    """Bytes ``[B, 32, 32, 3]`` of clean images ``[B, 3, 32, 32]`` in -1..1; values outside are clipped."""
    return np.ascontiguousarray(render.to_uint8((x0 + np.float32(1)) / np.float32(2)).transpose(0, 2, 3, 1))


def from_image(images: npt.NDArray[np.uint8]) -> Floats:
    """Inputs of the discriminator, float32 ``[B, 3, 32, 32]`` in 0..1, from bytes ``[B, 32, 32, 3]``."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def _guess(denoise: Denoise, x: Floats, t: float, words: npt.NDArray[np.int64], guidance: float) -> Floats:
    if guidance == 1.0:
        return denoise(x, np.full(len(x), t, dtype=np.float32), words)
    both = denoise(
        np.concatenate((x, x)),
        np.full(2 * len(x), t, dtype=np.float32),
        np.concatenate((words, tokens.null(len(x)))),
    )
    with_prompt, without = both[: len(x)], both[len(x) :]
    return without + np.float32(guidance) * (with_prompt - without)


def _normal(generators: Sequence[np.random.Generator]) -> Floats:
    return np.stack([generator.standard_normal(SHAPE, dtype=np.float32) for generator in generators])


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed must be in 0..2**64-1, not {seed}")
    return int(seed)

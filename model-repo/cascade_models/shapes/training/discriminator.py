"""The discriminator, which estimates how likely a light image shows exactly what its prompt asks, and its training.

The training has three stages, each of which makes the next one possible. First the convolutions learn to name what is
in a true image. Then the network, with attention to the prompt, learns to tell true prompts from edited ones; it gets a
label for every phrase and relation, without which it stays at chance. Last it learns the mistakes of the light model
from that model's images, which the checker labels. Its confidence is calibrated on images that it was not trained on.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from cascade_models.shapes import checker, grammar, render, sampling, tokens
from cascade_models.shapes.training import network, progress

WIDTH = 64
BATCH = 64
TRUNK_STEPS = 700
EDIT_STEPS = 1600
LIGHT_IMAGES = 14_000
CALIBRATION_IMAGES = 2_500
EPOCHS = 6
_EDITS = (0, 1, 1, 2, 4)
_CELLS = 16
_RATE = 1.5e-3


class DiscriminatorNetwork(nn.Module):  # type: ignore[misc]
    """``(image [B,3,32,32] in 0..1, tokens [B,7,3]) -> confidence [B] in 0..1``."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 24, 1), (24, 48, 2), (48, 64, 2), (64, WIDTH, 2)):
            layers += (nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.ReLU())
        self.trunk = nn.Sequential(*layers)
        self.cell_position = nn.Parameter(torch.randn(_CELLS, WIDTH) * 0.1)
        self.words = nn.Embedding(tokens.VOCABULARY_SIZE, WIDTH)
        self.slot_position = nn.Parameter(torch.randn(tokens.SLOTS, WIDTH) * 0.1)
        self.summary = nn.Parameter(torch.randn(1, WIDTH) * 0.1)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.Sequential(network.Block(WIDTH, 4), network.Block(WIDTH, 4))
        self.norm = nn.LayerNorm(WIDTH)
        self.strict = nn.Linear(WIDTH, 1)
        self.slot = nn.Linear(WIDTH, 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        nn.init.normal_(self.words.weight, std=0.5)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Cells ``[B, 16, 64]`` of an image, row by row."""
        return self.trunk(image * 2 - 1).flatten(2).transpose(1, 2)

    def logits(self, image: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Uncalibrated logits that all is right ``[B]`` and that each slot is right ``[B, 7]``."""
        cells = self.mix(self.features(image)) + self.cell_position
        prompt = self.words(words).sum(dim=2) + self.slot_position
        summary = self.summary.expand(cells.shape[0], 1, WIDTH)
        stream = self.norm(self.blocks(torch.cat((summary, prompt, cells), dim=1)))
        return self.strict(stream[:, 0])[:, 0], self.slot(stream[:, 1 : 1 + tokens.SLOTS])[:, :, 0]

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.scale * self.logits(image, words)[0] + self.offset)


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Light images with the checker's verdicts: tokens, strict ``[N]``, slots ``[N, 7]`` (NaN where empty)."""

    images: npt.NDArray[np.uint8]
    words: npt.NDArray[np.int64]
    strict: npt.NDArray[np.float32]
    slots: npt.NDArray[np.float32]

    def batch(self, chosen: npt.NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """Image, tokens, strict and slot labels of chosen rows."""
        images = torch.from_numpy(sampling.from_image(self.images[chosen]))
        return (images, *(torch.from_numpy(part[chosen]) for part in (self.words, self.strict, self.slots)))


@dataclasses.dataclass(frozen=True)
class TrainingSizes:
    """How many steps and images each stage of a training uses."""

    trunk_steps: int = TRUNK_STEPS
    edit_steps: int = EDIT_STEPS
    light_images: int = LIGHT_IMAGES
    calibration_images: int = CALIBRATION_IMAGES
    epochs: int = EPOCHS


def train(
    light: network.DenoiserNetwork, light_steps: int, seed: int, sizes: TrainingSizes, minutes: float | None = None
) -> tuple[DiscriminatorNetwork, list[progress.TrainingStage]]:
    """A calibrated discriminator for the light model at ``light_steps`` steps, and its stages' losses."""
    model, stages = train_matching(seed, sizes, _part(minutes, 0.45))
    stages.append(train_verdicts(model, light, light_steps, seed, sizes, _part(minutes, 0.55)))
    return model, stages


def train_matching(
    seed: int, sizes: TrainingSizes, minutes: float | None = None
) -> tuple[DiscriminatorNetwork, list[progress.TrainingStage]]:
    """A discriminator that tells true prompts of true images from edited ones; needs no denoiser."""
    torch.manual_seed(seed + 2)
    rng = np.random.default_rng((seed, 3))
    model = DiscriminatorNetwork()
    trunk = _train_trunk(
        model, rng, progress.TrainingStage("discriminator, trunk", sizes.trunk_steps, _part(minutes, 0.25))
    )
    edits = _train_edits(
        model, rng, progress.TrainingStage("discriminator, edits", sizes.edit_steps, _part(minutes, 0.75))
    )
    return model, [trunk, edits]


def train_verdicts(
    model: DiscriminatorNetwork,
    light: network.DenoiserNetwork,
    light_steps: int,
    seed: int,
    sizes: TrainingSizes,
    minutes: float | None = None,
) -> progress.TrainingStage:
    """Trains and calibrates ``model`` on the light model's own images as the checker labels them."""
    rng = np.random.default_rng((seed, 4))
    labelled = label(light, light_steps, sizes.light_images + sizes.calibration_images, rng, _part(minutes, 0.5))
    held_back = min(sizes.calibration_images, len(labelled.strict) // 4)
    fitted = np.arange(held_back, len(labelled.strict))
    stage = progress.TrainingStage(
        "discriminator, images", sizes.epochs * max(1, len(fitted) // BATCH), _part(minutes, 0.5)
    )
    _train_images(model, rng, labelled, fitted, stage)
    calibrate(model, labelled, np.arange(held_back))
    return stage


def label(
    light: network.DenoiserNetwork, steps: int, count: int, rng: np.random.Generator, minutes: float | None = None
) -> LabelledImages:
    """Light images of ``count`` training prompts, uniform in the number of shapes, with the checker's verdicts."""
    stage = progress.TrainingStage("discriminator, labelling", -(-count // BATCH), minutes)
    denoise = as_callable(light)
    parts: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = []
    strict: list[float] = []
    slots: list[npt.NDArray[np.float32]] = []
    while stage.progress < 1.0:
        scenes = [grammar.sample_scene(rng) for _ in range(BATCH)]
        words = tokens.encode_all(scenes)
        seeds = [int(seed) for seed in rng.integers(0, 2**63, size=BATCH)]
        images = sampling.generate(denoise, words, seeds, kind="light", steps=steps)
        for image, scene in zip(images, scenes, strict=True):
            verdict = checker.slots(checker.detect(image), scene)
            row = np.full(tokens.SLOTS, np.nan, dtype=np.float32)
            row[: len(verdict.objects)] = verdict.objects
            row[grammar.MAX_OBJECTS : grammar.MAX_OBJECTS + len(verdict.relations)] = verdict.relations
            slots.append(row)
            strict.append(float(verdict.count and all(verdict.objects) and all(verdict.relations)))
        parts.append((images, words))
        stage.advance(1 - float(np.mean(strict[-BATCH:])))
    return LabelledImages(
        np.concatenate([images for images, _ in parts]),
        np.concatenate([words for _, words in parts]),
        np.asarray(strict, dtype=np.float32),
        np.stack(slots),
    )


def as_callable(model: network.DenoiserNetwork) -> sampling.Denoise:
    """A torch denoiser as the samplers want it."""

    def denoise(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
        with torch.inference_mode():
            result: sampling.Floats = model(torch.from_numpy(x), torch.from_numpy(t), torch.from_numpy(words)).numpy()
        return result

    return denoise


def calibrate(model: DiscriminatorNetwork, labelled: LabelledImages, chosen: npt.NDArray[np.int64]) -> None:
    """Sets the scale and offset of the logit (Platt, 1999) by Newton's method on held-back images."""
    with torch.inference_mode():
        logits = torch.cat(
            [model.logits(*labelled.batch(part)[:2])[0] for part in np.array_split(chosen, max(1, len(chosen) // 256))]
        ).double()
    target = torch.from_numpy(labelled.strict[chosen]).double()
    # Platt's targets keep the fit finite when the classes separate.
    positives, negatives = target.sum(), (1 - target).sum()
    target = torch.where(target > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = torch.stack((logits, torch.ones_like(logits)), dim=1)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(50):
        probability = torch.sigmoid(design @ weights)
        gradient = design.T @ (probability - target)
        curvature = (design * (probability * (1 - probability) + 1e-9)[:, None]).T @ design
        weights = weights - 0.7 * torch.linalg.solve(curvature + 1e-6 * torch.eye(2, dtype=torch.float64), gradient)
    model.scale.copy_(weights[0].float())
    model.offset.copy_(weights[1].float())


def edit(
    scene: grammar.Scene, edits: int, rng: np.random.Generator
) -> tuple[grammar.Scene, npt.NDArray[np.float32], bool]:
    """A scene altered ``edits`` times, which of its slots are still right (NaN where empty), and whether all is."""
    objects, relations = list(scene.objects), list(scene.relations)
    right = np.full(tokens.SLOTS, np.nan, dtype=np.float32)
    right[: len(objects)] = 1
    right[grammar.MAX_OBJECTS : grammar.MAX_OBJECTS + len(relations)] = 1
    count_right = True
    for _ in range(edits):
        kind = rng.random()
        if kind < 0.15 and relations:
            at = int(rng.integers(len(relations)))
            relations[at] = _opposite(relations[at])
            right[grammar.MAX_OBJECTS + at] = 0
        elif kind < 0.25 and len(objects) in (2, 4) and objects[0] != objects[1]:
            objects[0], objects[1] = objects[1], objects[0]
            right[[0, 1]] = right[[1, 0]]
            right[grammar.MAX_OBJECTS] = 1 - right[grammar.MAX_OBJECTS]
        elif kind < 0.35 and len(objects) == 3 and count_right:
            del objects[2], relations[1]
            right[2] = right[grammar.MAX_OBJECTS + 1] = np.nan
            count_right = False
        else:
            at = int(rng.integers(len(objects)))
            objects[at] = _change(objects[at], rng)
            right[at] = 0
    # A relation counts between right shapes only, as in the checker.
    changed = grammar.Scene(tuple(objects), tuple(relations))
    for at, sides in enumerate(checker.relation_sides(changed)):
        if any(right[index] == 0 for side in sides for index in side):
            right[grammar.MAX_OBJECTS + at] = 0
    return changed, right, count_right and not np.any(right == 0)


def _change(shape: grammar.Shape, rng: np.random.Generator) -> grammar.Shape:
    kind = int(rng.integers(3))
    if kind == 0:
        return dataclasses.replace(shape, size="large" if shape.size == "small" else "small")
    if kind == 1:
        return dataclasses.replace(shape, colour=str(rng.choice([c for c in grammar.COLOURS if c != shape.colour])))
    return dataclasses.replace(shape, form=str(rng.choice([f for f in grammar.FORMS if f != shape.form])))


def _opposite(relation: str) -> str:
    return grammar.RELATIONS[grammar.RELATIONS.index(relation) ^ 1]


def _contents(scene: grammar.Scene) -> npt.NDArray[np.float32]:
    """What an image of a scene holds: each combination present, then each attribute in each half of the picture."""
    values = np.zeros(56 + 4 * 13, dtype=np.float32)
    for shape, (x, y) in zip(scene.objects, render.centres(scene), strict=True):
        size, colour, form = tokens.encode(grammar.Scene((shape,)))[0] - (1, 3, 10)
        values[(size * 7 + colour) * 4 + form] = 1
        for half, inside in enumerate((x < 16, x > 16, y < 16, y > 16)):
            if inside:
                values[56 + 13 * half + np.asarray((size, 2 + colour, 9 + form))] = 1
    return values


def _train_trunk(
    model: DiscriminatorNetwork, rng: np.random.Generator, stage: progress.TrainingStage
) -> progress.TrainingStage:
    head = nn.Linear(_CELLS * WIDTH, 56 + 4 * 13)
    parameters = [*model.trunk.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3)
    while stage.progress < 1.0:
        scenes = [grammar.sample_scene(rng) for _ in range(BATCH)]
        images = _noisy(render.render(scenes, rng), rng)
        target = torch.from_numpy(np.stack([_contents(scene) for scene in scenes]))
        loss = functional.binary_cross_entropy_with_logits(head(model.features(images).flatten(1)), target)
        _update(optimiser, parameters, loss, 2e-3, stage)
    return stage


def _train_edits(
    model: DiscriminatorNetwork, rng: np.random.Generator, stage: progress.TrainingStage
) -> progress.TrainingStage:
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.01)
    while stage.progress < 1.0:
        scenes = [grammar.sample_scene(rng) for _ in range(BATCH)]
        edited = [edit(scene, int(rng.choice(_EDITS)), rng) for scene in scenes]
        words = torch.from_numpy(tokens.encode_all([scene for scene, _, _ in edited]))
        slots = torch.from_numpy(np.stack([right for _, right, _ in edited]))
        strict = torch.tensor([float(right) for _, _, right in edited])
        loss = _loss(model, _noisy(render.render(scenes, rng), rng), words, strict, slots)
        _update(optimiser, parameters, loss, _RATE, stage)
    return stage


def _train_images(
    model: DiscriminatorNetwork,
    rng: np.random.Generator,
    labelled: LabelledImages,
    fitted: npt.NDArray[np.int64],
    stage: progress.TrainingStage,
) -> None:
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.05)
    order = rng.permutation(fitted)
    while stage.progress < 1.0:
        if len(order) < BATCH:
            order = rng.permutation(fitted)
        chosen, order = order[:BATCH], order[BATCH:]
        _update(optimiser, parameters, _loss(model, *labelled.batch(chosen)), _RATE, stage)


def _noisy(images: npt.NDArray[np.float32], rng: np.random.Generator) -> torch.Tensor:
    noise = rng.standard_normal(images.shape, dtype=np.float32) * np.float32(0.03)
    return torch.from_numpy(np.clip(images + noise, 0, 1)).permute(0, 3, 1, 2).contiguous()


def _loss(
    model: DiscriminatorNetwork, image: torch.Tensor, words: torch.Tensor, strict: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    whole, parts = model.logits(image, words)
    present = ~torch.isnan(slots)
    dense = functional.binary_cross_entropy_with_logits(parts[present], slots[present])
    return functional.binary_cross_entropy_with_logits(whole, strict) + dense


def _update(
    optimiser: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    loss: torch.Tensor,
    rate: float,
    stage: progress.TrainingStage,
) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1.0, 20 * (stage.progress + 0.005), 1.5 * (1 - stage.progress))
    optimiser.step()
    optimiser.zero_grad()
    stage.advance(float(loss.detach()))


def _part(minutes: float | None, share: float) -> float | None:
    return None if minutes is None else minutes * share

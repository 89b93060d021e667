"""Trains both architectures for seconds on shapes, and checks that losses fall and that the results can be served.

CLIP is replaced by a small model with random weights and a vocabulary of letters, since the quality does not matter.
"""

from __future__ import annotations

import json
import logging
import pathlib
import tempfile

import torch

from cascade_models.discriminators import DiscriminatorError, card, exported
from cascade_models.discriminators.training import fitting, rows, shapes_rows

logger = logging.getLogger("cascade_models.shapes.training")

IMAGES = 240
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = {
    "projection_dim": 16,
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": 2 * len(LETTERS) + 2, "max_position_embeddings": 77,
        "bos_token_id": 2 * len(LETTERS), "eos_token_id": 2 * len(LETTERS) + 1,
    },
}  # fmt: skip


def run(seed: int) -> None:
    """Raise FitError if a loss did not fall, or a result cannot be served."""
    with tempfile.TemporaryDirectory(prefix="cascade-discriminators-") as scratch:
        folder = pathlib.Path(scratch)
        data = rows.read(shapes_rows.write(folder / "shapes", IMAGES, seed), good_from=None)
        tiny_clip(folder / "clip", seed)
        tries = (
            fitting.TrainingOptions(
                architecture="efficientnetv2-s", size=32, width=0.125, depth=0.1, epochs=3, seed=seed
            ),
            fitting.TrainingOptions(architecture="clip-head", clip=folder / "clip", epochs=8, seed=seed),
        )
        for options in tries:
            out = folder / options.architecture
            stage, found = fitting.fit(data, out, options, good="everything in the image is right")
            if not stage.after < stage.before:
                raise fitting.FitError(f"{stage.name}: the loss did not fall ({stage.before:.3f} to {stage.after:.3f})")
            if not 0 <= found.ece <= 1:
                raise fitting.FitError(f"{stage.name}: a calibration error of {found.ece}")
            served = exported.load(out)
            again = fitting.evaluate(out, [row for row in data if row.part == "test"])
            if abs(again.ece - found.ece) > 0.01 or served.card.figures["images"] != len(found.labels):
                raise fitting.FitError(f"{stage.name}: what is served is not what was judged")
            (out / card.NETWORK).write_bytes(b"something else")
            try:
                exported.load(out)
            except DiscriminatorError:
                logger.info("%s: trained, served, and refused when it was not whole", stage.name)
            else:
                raise fitting.FitError(f"{stage.name}: a folder that is not whole was loaded")


def tiny_clip(folder: pathlib.Path, seed: int) -> None:
    """Write a folder with a CLIP model of random weights."""
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(**SIZES)).save_pretrained(folder)
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")

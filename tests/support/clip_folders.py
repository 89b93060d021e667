"""Reads folders with CLIP models as training does, and prints what comes of each as JSON: run in .venv-diffusers.

Argument: a folder to work in.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import CLIPTokenizer

from cascade_models.discriminators import words
from cascade_models.discriminators.training import clip, smoke
from cascade_models.discriminators.training.rows import RowsError

PROMPTS = ("a red fox's 12 foxes, don't!", "", "RED  Circle_above\ta square", "reed re-red cafe\u0301", "word " * 99)
MERGES = (("r", "e"), ("re", "d</w>"), ("e", "d</w>"), ("'", "s</w>"), ("f", "o"), ("o", "x</w>"), ("fo", "x</w>"))
LENGTH = 77


def configured(folder: Path, **changes: Any) -> None:
    """Changes values of the configuration, and of both networks in it where it has the same ones."""
    file = folder / "config.json"
    document = json.loads(file.read_text())
    for part in (document, document["text_config"], document["vision_config"]):
        part.update(changes)
    file.write_text(json.dumps(document))


def weighed(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces weights, or removes those that are None."""
    file = folder / "model.safetensors"
    state = {**safetensors.torch.load_file(file), **changes}
    safetensors.torch.save_file({name: value for name, value in state.items() if value is not None}, file)


def elsewhere(folder: Path) -> None:
    """A configuration that names half precision, quantisation, code, and attention that is downloaded."""
    configured(
        folder, dtype="float16", _attn_implementation="somebody/attention", attn_implementation="somebody/attention",
        quantization_config={"quant_method": "bitsandbytes"}, auto_map={"AutoModel": "own.Model"},
    )  # fmt: skip
    (folder / "own.py").write_text("raise SystemExit('this must not run')")


CASES: dict[str, Callable[[Path], object]] = {
    "whole": lambda folder: None,
    "elsewhere": elsewhere,
    "position ids": lambda folder: weighed(folder, **{"text_model.embeddings.position_ids": torch.arange(LENGTH)}),
    "no tokens": lambda folder: [(folder / name).unlink() for name in clip.TOKENS],
    "pickled": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "no json": lambda folder: (folder / "config.json").write_text("{"),
    "another model": lambda folder: configured(folder, model_type="bert"),
    "sizes": lambda folder: configured(folder, num_attention_heads=5),
    "cut off": lambda folder: (folder / "model.safetensors").write_bytes(b"half a file"),
    "lost": lambda folder: weighed(folder, **{"visual_projection.weight": None}),
    "shape": lambda folder: weighed(folder, **{"visual_projection.weight": torch.zeros(3, 3)}),
}


def outcome(folder: Path) -> str:
    """The number types and the attention of what was loaded, or why it was not."""
    try:
        model = clip.load(folder)
    except RowsError as error:
        return str(error)
    kinds = {str(value.dtype) for value in model.parameters()}
    attention = {part.config._attn_implementation for part in (model.text_model, model.vision_model)}
    return " ".join(sorted(kinds | attention))


def differing(folder: Path) -> list[str]:
    """Prompts that are served otherwise than CLIP's own tokenizer reads them, which knows marks and a few pairs."""
    folder.mkdir()
    marks = [chr(code) for code in range(33, 127)]
    pieces = [*marks, *(f"{mark}</w>" for mark in marks), *map("".join, MERGES), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, MERGES), ""]))
    theirs = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    read = theirs(list(PROMPTS), padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
    ours = words.ClipTokens.read(folder, length=LENGTH).encode(PROMPTS)
    return [prompt for prompt, one, other in zip(PROMPTS, ours, read, strict=True) if one.tolist() != other]


def main(scratch: Path) -> None:
    smoke.tiny_clip(scratch / "model", 0)
    found = {}
    for name, change in CASES.items():
        folder = scratch / name.replace(" ", "-")
        shutil.copytree(scratch / "model", folder)
        change(folder)
        found[name] = outcome(folder)
    print(json.dumps({"folders": found, "differing": differing(scratch / "tokens")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

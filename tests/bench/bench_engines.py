"""ONNX Runtime beside torch for the built-in denoiser: processor time by batch size, and how far images differ.

One thread each, as replicas run; calls of both take turns, so that what else the machine does meets both. The weights
are the shipped ones: torch reads the safetensors, ONNX Runtime the ONNX file. Torch runs as it comes (eager, inference
mode).

    cd tests && PYTHONPATH=../model-repo ../.venv-train/bin/python -m bench.bench_engines [--seconds 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cascade_models import engines
from cascade_models.shapes import assets, grammar, sampling, tokens
from cascade_models.shapes.training import discriminator, export

BATCHES = (1, 2, 4, 8, 16)
LEAST = 7
INPUTS = ("x", "t", "tokens")
IMAGES = 16
TARGET = 2.0
TOLERANCE = 2
"""Levels of 255 by which a pixel may differ: 24 steps of guided sampling add up what rounding leaves."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, all batch sizes together")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    figures: dict[str, Any] = {"denoiser": {}, "images": {}}
    print("one call of the heavy denoiser, milliseconds of processor time, median (10 % to 90 %)")
    print("| batch | torch | ONNX Runtime | torch : ONNX Runtime |")
    print("|---|---|---|---|")
    networks = {"torch": by_torch("heavy"), "onnxruntime": by_onnxruntime("heavy")}
    for batch in BATCHES:
        taken = measure(networks, batch, options.seconds / len(BATCHES))
        ratio = statistics.median(taken["torch"]) / statistics.median(taken["onnxruntime"])
        figures["denoiser"][batch] = {
            "ratio": ratio,
            **{name: statistics.median(values) for name, values in taken.items()},
        }
        print(f"| {batch} | {told(taken['torch'])} | {told(taken['onnxruntime'])} | {ratio:.2f} |")
    for kind in ("heavy", "light"):
        figures["images"][kind] = found = difference(kind)
        print(
            f"{IMAGES} {kind} images: {found['same']:.2%} of the values are the same, the greatest difference is "
            f"{found['most']} of 255 levels"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    held = figures["denoiser"][1]["ratio"] >= TARGET and all(f["most"] <= TOLERANCE for f in figures["images"].values())
    print(f"target ({TARGET:g} times at batch 1, images within {TOLERANCE} levels): {'met' if held else 'MISSED'}")
    return 0 if held else 1


def by_torch(kind: assets.ModelName) -> sampling.Denoise:
    return discriminator.as_callable(export.read(kind, assets.WEIGHTS))


def by_onnxruntime(kind: assets.ModelName) -> sampling.Denoise:
    return engines.load("onnxruntime", assets.path(kind), INPUTS)


def measure(networks: dict[str, sampling.Denoise], batch: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of processor time of calls that take turns."""
    x, t, words = (part.numpy() for part in export.sample_inputs("heavy", batch))
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for denoise in networks.values():
        denoise(x, t, words)
    until = time.process_time() + seconds
    while time.process_time() < until or len(taken["torch"]) < LEAST:
        for name, denoise in networks.items():
            taken[name].append(milliseconds(lambda denoise=denoise: denoise(x, t, words)))
    return taken


def milliseconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return 1000 * (time.process_time() - began)


def difference(kind: assets.ModelName) -> dict[str, float]:
    """Of images from the same prompts and seeds."""
    rng = np.random.default_rng(0)
    words = tokens.encode_all([grammar.sample_scene(rng) for _ in range(IMAGES)])
    variant = assets.metadata().variants[kind]
    made = [
        sampling.generate(
            denoise, words, list(range(IMAGES)), kind=variant.kind, steps=variant.steps, guidance=variant.guidance
        ).astype(int)
        for denoise in (by_torch(kind), by_onnxruntime(kind))
    ]
    apart = np.abs(made[0] - made[1])
    return {"same": float((apart == 0).mean()), "most": int(apart.max())}


def told(values: list[float]) -> str:
    low, high = np.quantile(values, (0.1, 0.9))
    return f"{statistics.median(values):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())

"""Settings and precisions of the built-in models beside the plain ones: time in turn on one core, and quality, paired.

Images of the same held-out prompts and seeds are drawn in fp32 and in int8, and compared prompt by prompt; intervals
are 95 % bootstrap intervals over prompts. Calls of both take turns, so that what else the machine does meets both.
Writes docs/benchmarks/settings.md.

    cd tests && OMP_NUM_THREADS=1 python -m bench.bench_settings [--prompts 4000] [--seconds 40]
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.explore_images import CHUNK, chunks, workload
from cascade_models import engines
from cascade_models.shapes import assets, checker, sampling, tokens
from cascade_profiler.measure.workload import Workload

SETTINGS: dict[str, tuple[sampling.Kind, int, float]] = {
    "light, 2 steps": ("light", 2, 1.0),
    "heavy, 6 steps, no guidance": ("heavy", 6, 1.0),
    "heavy, 12 steps, guidance 1.5": ("heavy", 12, 1.5),
    "heavy, 24 steps, guidance 2": ("heavy", 24, 2.0),
}
BATCHES = (1, 4, 8)
SEED = 52
RESAMPLES = 2000
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "settings.md"
Floats = npt.NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=40.0, help="of timing, all batch sizes and weights together")
    options = parser.parse_args()
    load = workload(options.prompts, SEED)
    quality = [
        "| setting | q2 in fp32 | q2 in int8 | int8 - fp32, paired | images with another q2 |",
        "|---|---|---|---|---|",
    ]
    for name, setting in SETTINGS.items():
        plain, quantised = (scores(load, *setting, form=form) for form in ("onnx", assets.QUANTISED))
        low, high = interval(quantised - plain)
        quality.append(
            f"| {name} | {plain.mean():.4f} | {quantised.mean():.4f} "
            f"| {(quantised - plain).mean():+.4f} ({low:+.4f} to {high:+.4f}) | {(quantised != plain).mean():.1%} |"
        )
        print(quality[-1], flush=True)
    times = ["| weights | batch | fp32, ms | int8, ms | int8 / fp32 |", "|---|---|---|---|---|"]
    kinds: tuple[sampling.Kind, ...] = ("heavy", "light")
    for kind in kinds:
        for batch in BATCHES:
            plain_s, quantised_s = timed(kind, batch, options.seconds / len(kinds) / len(BATCHES))
            times.append(
                f"| {kind} | {batch} | {1e3 * plain_s:.2f} | {1e3 * quantised_s:.2f} | {quantised_s / plain_s:.2f} |"
            )
            print(times[-1], flush=True)
    PAGE.write_text(page(options.prompts, quality, times), encoding="utf-8")
    return 0


@functools.cache
def network(kind: sampling.Kind, form: assets.Format) -> engines.Network:
    return engines.load("onnxruntime", assets.path(kind, form), ("x", "t", "tokens"))


def scores(load: Workload, kind: sampling.Kind, steps: int, guidance: float, *, form: assets.Format) -> Floats:
    """The q2 of each prompt's image."""
    found: list[float] = []
    for chunk in chunks(0, len(load.prompts)):
        scenes, seeds = load.scenes[chunk], load.seeds[chunk]
        images = sampling.generate(
            network(kind, form), tokens.encode_all(scenes), seeds, kind=kind, steps=steps, guidance=guidance
        )
        found += [checker.check(image, scene).q2 for image, scene in zip(images, scenes, strict=True)]
    return np.array(found)


def interval(differences: Floats) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def timed(kind: sampling.Kind, batch: int, seconds: float) -> tuple[float, float]:
    """The median processor seconds of a call in fp32 and in int8, in turn."""
    rng = np.random.default_rng(batch)
    x = rng.standard_normal((batch, *sampling.SHAPE), dtype=np.float32)
    t, words = np.full(batch, 0.7, dtype=np.float32), tokens.null(batch)
    calls: list[Callable[[], object]] = [
        functools.partial(network(kind, form), x, t, words) for form in ("onnx", assets.QUANTISED)
    ]
    taken: list[list[float]] = [[], []]
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(taken[0]) < 20:
        for call, into in zip(calls, taken, strict=True):
            began = time.process_time()
            call()
            into.append(time.process_time() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])


def page(prompts: int, quality: list[str], times: list[str]) -> str:
    return f"""# Precisions and step caches

Written by `make bench-settings`; do not edit by hand.

{datetime.now(tz=timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), no GPU, on one thread.

## int8 on the testbed

{prompts} prompts that the models were not trained on, one image each with the same seeds. They are drawn in
batches of {CHUNK}. In parentheses: 95 % bootstrap intervals over prompts, paired.

{chr(10).join(quality)}

One call of the denoiser, median processor time; fp32 and int8 in turn:

{chr(10).join(times)}

Weights and activations of the linear layers are in int8. Attention itself, normalisation and what joins them stay in
float32 and take their time in both. ONNX Runtime has one scale for the activations of a whole batch, so in int8 the
other images of a batch change an image a little more than by rounding.

## What loses

- **A step cache for the built-in model** was measured before, and lost against fewer steps at equal time: its blocks
  are so few that skipping all but the first costs more quality than leaving out steps. It has none.
- **int8 with engine `diffusers` on a CPU** has no fast product of 8-bit numbers without compiling, so class `cpu`
  refuses it. On a GPU it has not been measured yet, nor have step caches with published weights: `cascade explore`
  measures both.
"""


if __name__ == "__main__":
    raise SystemExit(main())

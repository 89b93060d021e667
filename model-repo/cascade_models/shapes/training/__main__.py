"""``python -m cascade_models.shapes.training [train|card|labels|verify]``: see ``--help``."""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys

import torch

from cascade_models.shapes import assets
from cascade_models.shapes.training import card, evaluate, export, pipeline


def main() -> int:
    """Runs a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cascade_models.shapes.training", description=__doc__)
    parser.add_argument("command", nargs="?", default="train", choices=("train", "card", "labels", "verify"))
    parser.add_argument("--out", type=pathlib.Path, default=assets.WEIGHTS, help="where the weights are or go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=pipeline.TrainingBudget.minutes, help="wall-clock limit of training"
    )
    parser.add_argument("--smoke", action="store_true", help="train about a minute, then check losses and files")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument("--prompts", type=int, default=None, help="card, labels: number of prompts")
    parser.add_argument(
        "--labels", type=pathlib.Path, default=pathlib.Path("labels.npz"), help="labels: the file to write"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    # Weights near zero pass through the denormal range, where this arithmetic is many times slower.
    torch.set_flush_denormal(True)
    if options.command == "verify":
        assets.verify(options.out)
        export.verify(options.out)
        return 0
    if options.command == "card":
        card.write(options.out, options.prompts or 1200)
        return 0
    if options.command == "labels":
        evaluate.write_labels(options.out, options.prompts or 3000, options.labels)
        return 0
    budget = pipeline.SMOKE if options.smoke else pipeline.TrainingBudget(minutes=options.minutes)
    stages = pipeline.make(options.out, options.seed, budget)
    problems = pipeline.check(options.out, stages)
    for problem in problems:
        logging.getLogger("cascade_models.shapes.training").error("FAILED: %s", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

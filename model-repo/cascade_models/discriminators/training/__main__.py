"""``python -m cascade_models.discriminators.training train|evaluate|shapes-rows|smoke``: see ``--help``."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import sys

import torch

from cascade_models.discriminators import DiscriminatorError
from cascade_models.discriminators.training import efficientnet, fitting, report, rows, shapes_rows, smoke
from cascade_models.engines import EngineError

ARCHITECTURES = ("efficientnetv2-s", "clip-head")
logger = logging.getLogger("cascade_models.shapes.training")


def main() -> int:
    """Run a command; returns the exit code. Errors that the user can fix are printed without a traceback."""
    options = _parser().parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # Models are local folders, so transformers needs no network.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    try:
        options.run(options)
    except (rows.RowsError, DiscriminatorError, EngineError, fitting.FitError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _train(options: argparse.Namespace) -> None:
    data = rows.read(options.data, good_from=options.good_from)
    chosen = fitting.TrainingOptions(
        architecture=options.architecture,
        size=options.size,
        width=options.width,
        depth=options.depth,
        epochs=options.epochs,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
        init=options.init,
        clip=options.clip,
        device=options.device,
    )
    meaning = "its label is 1" if options.good_from is None else f"its score is {options.good_from:g} or more"
    stage, found = fitting.fit(data, options.out, chosen, good=options.good or meaning)
    logger.info("%s: loss %.3f to %.3f", options.architecture, stage.before, stage.after)
    _report(found, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    data = [row for row in rows.read(options.data, good_from=options.good_from) if row.part == "test" or options.all]
    _report(fitting.evaluate(options.out, data), options.out)


def _report(found: fitting.Judgement, folder: pathlib.Path) -> None:
    report.write(folder, found)
    print(report.summary(found))


def _shapes_rows(options: argparse.Namespace) -> None:
    print(shapes_rows.write(options.out, options.count, options.seed))


def _smoke(options: argparse.Namespace) -> None:
    smoke.run(options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cascade_models.discriminators.training", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train on labelled images, calibrate, judge on held-out prompts, export")
    judged = commands.add_parser("evaluate", help="judge a trained discriminator as it is served")
    for command in (train, judged):
        command.add_argument(
            "--data", type=pathlib.Path, required=True, help="CSV or JSONL: image, prompt, label|score"
        )
        command.add_argument("--good-from", type=float, help="the lowest score of a good image")
        command.add_argument("--out", type=pathlib.Path, required=True, help="folder of the discriminator")
    judged.add_argument("--all", action="store_true", help="all rows, not only those that training held out")
    train.add_argument("--architecture", choices=ARCHITECTURES, default=ARCHITECTURES[0])
    train.add_argument("--clip", type=pathlib.Path, help="clip-head: folder with a CLIP model, weights as safetensors")
    train.add_argument(
        "--init", type=pathlib.Path, help="efficientnetv2-s: initial weights as safetensors (torchvision's)"
    )
    train.add_argument("--good", default="", help="what a good image is, in words, for the card")
    train.add_argument(
        "--size", type=int, default=efficientnet.SIZE, help="efficientnetv2-s: height and width of its images in pixels"
    )
    train.add_argument("--width", type=float, default=1.0, help="efficientnetv2-s: channels, as a share")
    train.add_argument("--depth", type=float, default=1.0, help="efficientnetv2-s: layers, as a share")
    train.add_argument("--epochs", type=int, default=20)
    train.add_argument("--batch", type=int, default=32)
    train.add_argument("--rate", type=float, default=1e-3, help="greatest learning rate")
    train.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made = commands.add_parser("shapes-rows", help="labelled images of the built-in shapes, as an example")
    made.add_argument("--out", type=pathlib.Path, required=True)
    made.add_argument("--count", type=int, default=2000)
    tried = commands.add_parser("smoke", help="train both kinds for seconds, and check everything")
    for command, run in ((train, _train), (judged, _evaluate), (made, _shapes_rows), (tried, _smoke)):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=1, help="threads that torch may use")
        command.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())

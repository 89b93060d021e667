"""Trains, calibrates, evaluates and writes a discriminator; the steps are the same for every architecture."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import safetensors.torch
import torch
from torch import nn

from cascade_models import judging
from cascade_models.discriminators import card, exported, pixels, words
from cascade_models.discriminators.training import clip, efficientnet, rows
from cascade_models.shapes.training import progress

logger = logging.getLogger("cascade_models.shapes.training")

TOLERANCE = 1e-3
CACHED_BYTES = 1 << 30
"""Images of up to this size in total are kept in memory; others are read again for every epoch."""

Doubles = npt.NDArray[np.float64]
Batches = Callable[[npt.NDArray[np.int64]], torch.Tensor]
"""Gives the uncalibrated logits of chosen rows."""


class FitError(RuntimeError):
    """A training has no usable result; the message says why."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How long and at what size a discriminator is trained."""

    architecture: str = "efficientnetv2-s"
    size: int = efficientnet.SIZE
    width: float = 1.0
    depth: float = 1.0
    epochs: int = 20
    batch: int = 32
    rate: float = 1e-3
    seed: int = 0
    init: pathlib.Path | None = None
    clip: pathlib.Path | None = None
    device: str = "cpu"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Confidences and labels of held-out images, and the figures that follow from them."""

    confidence: Doubles
    labels: Doubles
    auc: float
    ece: float
    bins: Sequence[judging.Bin]
    intervals: dict[str, tuple[float, ...]]

    def figures(self) -> dict[str, object]:
        """The figures in the form of the card."""
        return {
            "images": len(self.labels),
            "good": float(self.labels.mean()),
            "auc": self.auc,
            "auc95": self.intervals["auc"],
            "ece": self.ece,
            "ece95": self.intervals["ece"],
            "reliability": [dataclasses.asdict(row) for row in self.bins],
        }


def fit(
    data: Sequence[rows.TrainingRow], out: pathlib.Path, options: TrainingOptions, *, good: str
) -> tuple[progress.TrainingStage, Judgement]:
    """Train on the rows and write the discriminator to ``out``; ``good`` says in words what a label of 1 means.

    Raises RowsError if an image or a model cannot be read, and FitError if the exported network differs from the
    trained one.
    """
    torch.manual_seed(options.seed)
    parts = {name: [row for row in data if row.part == name] for name in ("train", "calibration", "test")}
    out.mkdir(parents=True, exist_ok=True)
    # A card marks a complete folder, so it is removed until everything has been written again.
    (out / card.FILE).unlink(missing_ok=True)
    model, known = _make(options, out)
    model = model.to(options.device)
    stage = _train(model, parts["train"], known, out, options)
    model.eval().requires_grad_(False)
    logits, labels = _judge_logits(model, parts["calibration"], known, out, options), _labels(parts["calibration"])
    scale, offset = judging.platt(logits, labels)
    model.scale.fill_(scale)
    model.offset.fill_(offset)
    logits = _judge_logits(model, parts["test"], known, out, options)
    confidence = 0.5 * (1 + np.tanh((scale * logits + offset) / 2))
    found = judge(confidence, (_labels(parts["test"]) > 0.5).astype(np.float64))
    model = model.to("cpu")
    _write(model, known, out)
    known = dataclasses.replace(
        known,
        good=good,
        figures=found.figures(),
        training={
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "images": {name: len(part) for name, part in parts.items()},
            "seed": options.seed,
            "steps": stage.step,
            "torch": torch.__version__,
            "calibration": {"scale": scale, "offset": offset},
        },
        sha256={file.name: card.digest_of(file) for file in sorted(out.iterdir()) if file.name in _files(known)},
    )
    known.write(out)
    verify(model, parts["test"][:8], known, out)
    return stage, found


def evaluate(folder: pathlib.Path, data: Sequence[rows.TrainingRow]) -> Judgement:
    """Evaluate a discriminator on rows, as it is served; raises DiscriminatorError or RowsError."""
    served = exported.load(folder)
    parts = [data[at : at + 32] for at in range(0, len(data), 32)]
    found = [
        served.confidence(rows.load(part, served.card.size), [row.prompt for row in part]).astype(np.float64)
        for part in parts
    ]
    return judge(np.concatenate(found), (_labels(data) > 0.5).astype(np.float64))


def judge(confidence: Doubles, labels: Doubles) -> Judgement:
    """Evaluate confidences against held-out labels of 0 and 1."""
    bins, ece = judging.reliability(confidence, labels)
    return Judgement(
        confidence, labels, judging.auc(confidence, labels), ece, bins, judging.bootstrap(confidence, labels)
    )


def verify(model: nn.Module, data: Sequence[rows.TrainingRow], known: card.Card, folder: pathlib.Path) -> None:
    """Raise FitError unless serving gives the same confidences as torch, for single images and for a batch."""
    served = exported.load(folder)
    images, prompts = rows.load(data, known.size), [row.prompt for row in data]
    with torch.inference_mode():
        wanted = model(*_tensors(images, prompts, known, exported.encoder(known, folder))).numpy()
    alone = np.concatenate([served.confidence(images[at : at + 1], prompts[at : at + 1]) for at in range(len(data))])
    worst = max(float(np.abs(found - wanted).max()) for found in (served.confidence(images, prompts), alone))
    if not worst < TOLERANCE:
        raise FitError(f"ONNX Runtime differs from torch by {worst:.2g}")
    logger.info("ONNX Runtime differs from torch by at most %.1g", worst)


def _make(options: TrainingOptions, out: pathlib.Path) -> tuple[nn.Module, card.Card]:
    """The untrained network, and its card without results; files that are needed to read prompts go to ``out``."""
    blank = card.Card(
        architecture=options.architecture,
        size=options.size,
        mean=efficientnet.MEAN,
        std=efficientnet.STD,
        reading="hashed",
        length=words.HASHED_LENGTH,
        good="",
        figures={},
        training={},
        sha256={},
    )
    if options.architecture == "clip-head":
        if options.clip is None:
            raise rows.RowsError("--clip: name the folder of a CLIP model")
        trunk = clip.load(options.clip)
        for name in clip.TOKENS:
            shutil.copyfile(options.clip / name, out / name)
        known = dataclasses.replace(
            blank,
            size=trunk.config.vision_config.image_size,
            mean=clip.MEAN,
            std=clip.STD,
            reading="clip",
            length=trunk.config.text_config.max_position_embeddings,
        )
        return clip.ClipHead(trunk), known
    model = efficientnet.EfficientNetDiscriminator(width=options.width, depth=options.depth)
    if options.init is not None:
        try:
            left = model.pretrained(safetensors.torch.load_file(options.init))
        except (OSError, safetensors.SafetensorError) as error:
            raise rows.RowsError(f"--init: {options.init} cannot be read: {error}") from None
        logger.info("%s: loaded all but %d of %d weights", options.init, len(left), len(model.state_dict()))
    return model, blank


def _train(
    model: nn.Module, data: Sequence[rows.TrainingRow], known: card.Card, folder: pathlib.Path, options: TrainingOptions
) -> progress.TrainingStage:
    """Train with AdamW; the rate rises and falls once. CLIP is not trained, so its embeddings are computed once."""
    logits = _logits_of(model, data, known, folder, options, training=True)
    labels = torch.from_numpy(_labels(data)).float().to(options.device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.05)
    steps = options.epochs * max(1, -(-len(data) // options.batch))
    stage = progress.TrainingStage(options.architecture, steps)
    model.train()
    for chosen in _shuffled(len(data), options, steps):
        loss = nn.functional.binary_cross_entropy_with_logits(logits(chosen), labels[torch.from_numpy(chosen)])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1.0, 10 * (stage.progress + 0.01), 2 * (1 - stage.progress) + 0.01)
        optimiser.step()
        optimiser.zero_grad()
        stage.advance(float(loss.detach()))
    return stage


def _shuffled(count: int, options: TrainingOptions, steps: int) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of all rows, once per epoch; a last batch of a single row, which has no variance, is replaced."""
    rng = np.random.default_rng(options.seed)
    made = 0
    while True:
        order = rng.permutation(count)
        for at in range(0, count, options.batch):
            if made == steps:
                return
            made += 1
            chosen = order[at : at + options.batch]
            yield chosen if len(chosen) > 1 else order[: options.batch]


def _judge_logits(
    model: nn.Module, data: Sequence[rows.TrainingRow], known: card.Card, folder: pathlib.Path, options: TrainingOptions
) -> Doubles:
    logits = _logits_of(model, data, known, folder, options, training=False)
    with torch.inference_mode():
        parts = [logits(part) for part in np.array_split(np.arange(len(data)), -(-len(data) // options.batch))]
    found: Doubles = torch.cat(parts).cpu().double().numpy()
    return found


def _logits_of(
    model: nn.Module,
    data: Sequence[rows.TrainingRow],
    known: card.Card,
    folder: pathlib.Path,
    options: TrainingOptions,
    *,
    training: bool,
) -> Batches:
    """A function that gives the logits of chosen rows; images or embeddings are kept if they fit into memory."""
    encode = exported.encoder(known, folder)
    keep = len(data) * known.size**2 * 3 <= CACHED_BYTES
    held = rows.load(data, known.size) if keep else None

    def inputs(chosen: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        images = held[chosen] if held is not None else rows.load([data[at] for at in chosen], known.size)
        prepared = _tensors(images, [data[at].prompt for at in chosen], known, encode)
        return prepared[0].to(options.device), prepared[1].to(options.device)

    if not isinstance(model, clip.ClipHead) or not training:
        return lambda chosen: model.logits(*inputs(chosen))
    with torch.no_grad():
        made = [inputs(part) for part in np.array_split(np.arange(len(data)), -(-len(data) // options.batch))]
        seen = torch.cat([model.seen(image) for image, _ in made])
        read = torch.cat([model.read(tokens) for _, tokens in made])
    return lambda chosen: model.embedded(seen[torch.from_numpy(chosen)], read[torch.from_numpy(chosen)])


def _tensors(
    images: npt.NDArray[np.uint8], prompts: Sequence[str], known: card.Card, encode: exported.Encode
) -> tuple[torch.Tensor, torch.Tensor]:
    prepared = pixels.prepare(images, known.size, mean=known.mean, std=known.std)
    return torch.from_numpy(prepared), torch.from_numpy(encode(prompts))


def _write(model: nn.Module, known: card.Card, out: pathlib.Path) -> None:
    """Export the network, including its calibration, for any number of images in a batch."""
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, out / card.WEIGHTS)
    image = torch.zeros(2, 3, known.size, known.size)
    tokens = torch.ones(2, known.length, dtype=torch.int64)
    made = torch.onnx.export(
        model,
        (image, tokens),
        dynamo=True,
        external_data=False,
        input_names=list(exported.INPUTS),
        output_names=["confidence"],
        dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1, max=256)} for _ in exported.INPUTS),
        verbose=False,
    )
    if made is None:
        raise FitError("torch gave no ONNX program")
    onnx.checker.check_model(made.model_proto)
    (out / card.NETWORK).write_bytes(made.model_proto.SerializeToString())


def _files(known: card.Card) -> tuple[str, ...]:
    own = (card.NETWORK, card.WEIGHTS)
    return (*own, *clip.TOKENS) if known.reading == "clip" else own


def _labels(data: Sequence[rows.TrainingRow]) -> Doubles:
    return np.array([row.label for row in data], dtype=np.float64)

"""Reads labelled images from a CSV or JSONL file. Before training, every bad row is reported with its line and field.

A row has an ``image`` (a path relative to the file's folder), its ``prompt``, and either a ``label`` (0 to 1: is the
image good enough?) or a ``score`` on any scale; ``--good-from`` gives the lowest score of a good image.
"""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cascade_models.discriminators import pixels

SHOWN: Final = 10
"""How many bad rows are reported; of the rest, only the number."""
LEAST: Final = 40
"""The fewest images for a training."""
READERS: Final = 4

Part = Literal["train", "calibration", "test"]


class RowsError(ValueError):
    """A file cannot be used for training; the message has one line for each problem."""


@dataclass(frozen=True)
class TrainingRow:
    """One labelled image; ``label`` is 0 to 1."""

    image: Path
    prompt: str
    label: float

    @property
    def part(self) -> Part:
        """What the row is used for. The prompt decides, so that no prompt is used both for training and evaluation."""
        place = zlib.crc32(self.prompt.encode()) % 20
        return "train" if place < 14 else "calibration" if place < 17 else "test"


def read(file: Path, *, good_from: float | None) -> list[TrainingRow]:
    """The rows of a file, after checking that the images exist; ``good_from`` is the lowest score of a good image.

    Raises RowsError.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RowsError(f"{file}: cannot be read: {error}") from None
    rows: list[TrainingRow] = []
    problems: list[str] = []
    for line, cells in _jsonl(file, lines) if file.suffix in (".jsonl", ".ndjson") else _csv(file, lines):
        try:
            rows.append(_row(cells, file.parent, good_from))
        except RowsError as error:
            problems.append(f"{file}:{line}: {error}")
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise RowsError("\n".join([*problems[:SHOWN], *more]))
    _check(file, rows)
    return rows


def load(rows: Sequence[TrainingRow], size: int) -> npt.NDArray[np.uint8]:
    """The images ``[N, size, size, 3]`` of rows, resized in the same way as in serving; raises RowsError."""
    with ThreadPoolExecutor(READERS) as pool:
        return np.stack(list(pool.map(lambda row: _open(row.image, size), rows)))


def _open(file: Path, size: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            pixels_of = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RowsError(f"{file}: cannot be read as an image: {error}") from None
    small = pixels.resize(pixels_of[None].astype(np.float32), size)[0]
    whole: npt.NDArray[np.uint8] = np.rint(small).astype(np.uint8)
    return whole


def _csv(file: Path, lines: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(lines)
    header = reader.fieldnames or []
    missing = [name for name in ("image", "prompt") if name not in header]
    if missing or not {"label", "score"} & set(header):
        wanted = missing or ["label or score"]
        raise RowsError(f"{file}:1: the header lacks {', '.join(wanted)}: it has {', '.join(header) or 'nothing'}")
    for cells in reader:
        yield reader.line_num, cells


def _jsonl(file: Path, lines: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise RowsError(f"{file}:{number}: not JSON: {error}") from None
        if not isinstance(cells, dict):
            raise RowsError(f"{file}:{number}: not an object with image, prompt and label or score")
        yield number, cells


def _row(cells: Mapping[str, Any], folder: Path, good_from: float | None) -> TrainingRow:
    image = folder / _text(cells, "image")
    if not image.is_file():
        raise RowsError(f"image: no file {image}")
    prompt = _text(cells, "prompt")
    if cells.get("label") not in (None, ""):
        label = _number(cells, "label")
        if not 0 <= label <= 1:
            raise RowsError(f"label: {label:g} is not between 0 and 1; a rating on another scale is a score")
        return TrainingRow(image, prompt, label)
    if cells.get("score") in (None, ""):
        raise RowsError("label: there is neither a label nor a score")
    score = _number(cells, "score")
    if good_from is None:
        raise RowsError("score: give the lowest score of a good image with --good-from")
    return TrainingRow(image, prompt, float(score >= good_from))


def _text(cells: Mapping[str, Any], name: str) -> str:
    value = cells.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowsError(f"{name}: is missing")
    return value.strip()


def _number(cells: Mapping[str, Any], name: str) -> float:
    value = cells[name]
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowsError(f"{name}: {value!r} is not a number") from None
    if not math.isfinite(number):
        raise RowsError(f"{name}: {value!r} is not a finite number")
    return number


def _check(file: Path, rows: Sequence[TrainingRow]) -> None:
    """Raise RowsError if there are too few images, or a part lacks good or bad ones."""
    if len(rows) < LEAST:
        raise RowsError(f"{file}: has {len(rows)} images: at least {LEAST} are needed, better a few thousand")
    for part in ("train", "calibration", "test"):
        labels = [row.label for row in rows if row.part == part]
        if not any(label > 0.5 for label in labels) or all(label > 0.5 for label in labels):
            good = sum(label > 0.5 for label in labels)
            raise RowsError(
                f"{file}: of the {len(labels)} images for {part} (chosen by their prompts), {good} are good: both "
                "kinds are needed; add rows, or choose another --good-from"
            )

"""Reads tables of numbers from files. Every error names the file, row and field, and is printed without a traceback."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade_api.command import CommandFailed
from cascade_api.quantities import pixels


class BadInput(CommandFailed):
    """A file cannot be used; the exit code is 2."""

    def __init__(self, source: str, message: str, *, row: int = 0, field: str = "") -> None:
        where = f"{source}:{row}" if row else source
        super().__init__(f"{where}: {field}: {message}" if field else f"{where}: {message}", code=2)


@dataclass(frozen=True)
class Record:
    """One row of a table, as cells by column name."""

    source: str
    row: int
    cells: dict[str, str]

    def text(self, field: str) -> str:
        """The text of a cell; raises BadInput if it is missing."""
        value = self.cells.get(field)
        if value is None or not value.strip():
            raise self.bad(field, "is missing")
        return value.strip()

    def number(self, field: str, *, low: float = -math.inf, high: float = math.inf) -> float:
        """The value of a cell, a finite number between ``low`` and ``high``; raises BadInput otherwise."""
        text = self.text(field)
        try:
            value = float(text)
        except ValueError:
            raise self.bad(field, f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise self.bad(field, f"{text!r} is not a finite number")
        if not low <= value <= high:
            bounds = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise self.bad(field, f"{text} must be {bounds}")
        return value

    def bad(self, field: str, message: str) -> BadInput:
        return BadInput(self.source, message, row=self.row, field=field)


def text_of(path: Path) -> str:
    """The content of a text file; raises BadInput if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(str(path), "is not a text file") from None


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; raises BadInput if it cannot be read or is empty."""
    lines = text_of(path).splitlines()
    if not any(line.strip() for line in lines):
        raise BadInput(str(path), "is empty")
    return lines


def records(path: Path, *, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a CSV file whose header has at least ``columns``; raises BadInput."""
    lines = lines_of(path)
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader)]
    for column in columns:
        if column not in header:
            raise BadInput(str(path), f"the header lacks this column; it has {', '.join(header)}", row=1, field=column)
    for row, cells in enumerate(reader, start=2):
        if cells:
            yield Record(str(path), row, dict(zip(header, cells, strict=False)))


def size_parts(text: str) -> dict[str, float]:
    """The parts of requests by size in a list such as ``512x512=1,1024x1024=2``; raises BadInput."""
    parts: dict[str, float] = {}
    for each in filter(None, text.split(",")):
        size, _, part = each.strip().partition("=")
        try:
            pixels(size)
            parts[size] = float(part or 1) + parts.get(size, 0.0)
        except ValueError:
            raise BadInput("--sizes", f"{each.strip()!r} is not SIZE=PART: write for example 512x512=1") from None
        if not (math.isfinite(parts[size]) and parts[size] > 0):
            raise BadInput("--sizes", f"{each.strip()!r}: the part must be above zero")
    return parts

"""Arrivals: reference traces, plain CSV files and generators, by one name.

A trace is a name of the reference data (``hadis_1to64``), a file, or a generator with its parameters
(``poisson:rate=20,seconds=200``; see `generators`). A file whose name starts with ``trace_``, or whose header is
``ms[,prompt]``, has milliseconds in any order, as the reference traces do; every other file has ``seconds[,prompt]``,
header or not, in rising order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..frontier.inputs import BadInput, lines_of
from ..frontier.reference import reference_folder
from .generators import GENERATORS, LONGEST_S, generate

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PROMPTS: Final = 5000
"""Distinct prompts of the reference data, and of traces that name none."""
_TIMES: Final = {"seconds": 1.0, "ms": 1000.0}


@dataclass(frozen=True)
class Trace:
    """Arrival times in seconds, rising, and the prompt of each."""

    name: str
    times_s: Floats
    prompts: Integers

    @property
    def span_s(self) -> float:
        """Seconds from zero to the last arrival."""
        return float(self.times_s[-1])

    @property
    def mean_rate(self) -> float:
        return len(self.times_s) / max(self.span_s, 1e-9)


def load_trace(name: str, *, seed: int = 0) -> Trace:
    """The trace of that name; ``seed`` determines what is random (generated arrivals, prompts). Raises BadInput."""
    kind, colon, parameters = name.partition(":")
    if kind in GENERATORS and not Path(name).exists():
        times = generate(kind, parameters if colon else "", seed=seed, source=name)
        return _with_prompts(name, times, None, seed=seed)
    path = Path(name)
    if path.suffix or path.exists():
        return read_trace(path, seed=seed)
    return read_trace(_reference(name), seed=seed)


def is_drawn(name: str) -> bool:
    """Whether another seed gives other arrivals."""
    return name.partition(":")[0] in GENERATORS and not Path(name).exists()


def _reference(name: str) -> Path:
    folder = reference_folder()
    path = folder / f"trace_{name}qps.csv"
    if not path.exists():
        known = sorted(p.stem.removeprefix("trace_").removesuffix("qps") for p in folder.glob("trace_*qps.csv"))
        raise BadInput(
            name,
            f"is neither a file, nor a generator ({', '.join(GENERATORS)}), nor a reference trace ({', '.join(known)})",
        )
    return path


def read_trace(path: Path, *, seed: int = 0) -> Trace:
    """The trace in a file; raises BadInput, which names file, row and field."""
    lines = lines_of(path)
    head = [cell.strip().lower() for cell in lines[0].split(",")]
    unit = next((field for field in _TIMES if head[0] == field), None)
    first = 1
    if unit is None:
        unit, first = ("ms" if path.name.startswith("trace_") else "seconds"), 0
    times: list[float] = []
    prompts: list[int] = []
    width = 0
    for row, line in enumerate(lines[first:], start=first + 1):
        if not line.strip():
            continue
        cells = line.split(",")
        width = width or len(cells)
        if len(cells) != width or width > 2:
            raise BadInput(str(path), f"has {len(cells)} columns: {unit}[,prompt] is wanted", row=row)
        times.append(_time(path, row, unit, cells[0]))
        if unit == "seconds" and len(times) > 1 and times[-1] < times[-2]:
            raise BadInput(
                str(path),
                f"{times[-1]:g} comes after {times[-2]:g}: arrivals must rise (a reference trace, in milliseconds and "
                "any order, is named trace_*.csv or has the header ms,prompt)",
                row=row,
                field=unit,
            )
        if width == 2:
            prompts.append(_prompt(path, row, cells[1]))
    if not times:
        raise BadInput(str(path), "has a header but no arrivals")
    return _with_prompts(path.stem, np.asarray(times), np.asarray(prompts) if prompts else None, seed=seed)


def _time(path: Path, row: int, unit: str, text: str) -> float:
    """Seconds of a cell that holds ``unit``."""
    try:
        value = float(text)
    except ValueError:
        raise BadInput(str(path), f"{text.strip()!r} is not a number", row=row, field=unit) from None
    if not math.isfinite(value) or value < 0:
        raise BadInput(str(path), f"{text.strip()} is not a time from zero on", row=row, field=unit)
    seconds = value / _TIMES[unit]
    if seconds > LONGEST_S:
        raise BadInput(
            str(path),
            f"{text.strip()} is more than {LONGEST_S:.0f} s from zero: times count from the start of the trace",
            row=row,
            field=unit,
        )
    return seconds


def _prompt(path: Path, row: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise BadInput(str(path), f"{text.strip()!r} is not a prompt number from zero on", row=row, field="prompt")
    return value


def _with_prompts(name: str, times: Floats, prompts: Integers | None, *, seed: int) -> Trace:
    if prompts is None:
        prompts = np.random.default_rng([seed, 1]).integers(1, PROMPTS, size=len(times))
        prompts = prompts.astype(np.int64)
    order = np.argsort(times, kind="stable")
    return Trace(name, times[order], prompts[order])

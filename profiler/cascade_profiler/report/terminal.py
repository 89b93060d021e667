"""Small charts of text, for terminals: a line of blocks, and bars beside each other (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
GAP: Final = "·"
"""Stands where there is no value."""


def sparkline(values: Sequence[float | None], *, width: int, top: float | None = None) -> str:
    """Values as a line of at most ``width`` blocks, from zero to ``top`` (default: the largest value).

    If there are more values than blocks, a block shows the largest of those that it stands for, so that peaks stay.
    """
    groups = _groups(values, width)
    highest = top if top is not None else max((value for value in groups if value is not None), default=0.0)
    return "".join(GAP if value is None else _block(value, highest) for value in groups)


def bar(share: float, *, width: int) -> str:
    """A share of 0 to 1 as a bar of ``width`` characters, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def chart(name: str, values: Sequence[float | None], *, unit: str, width: int, top: float | None = None) -> str:
    """A line with a name, the sparkline of its values, and the least and the largest one."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    bounds = f"{min(known):.3g} to {max(known):.3g} {unit}" if known else "no values"
    shown = [value if value is not None and math.isfinite(value) else None for value in values]
    return f"{name:<22} {sparkline(shown, width=width, top=top)}  {bounds}".rstrip()


def _groups(values: Sequence[float | None], width: int) -> list[float | None]:
    count = min(len(values), width)
    groups: list[float | None] = []
    for index in range(count):
        part = values[index * len(values) // count : (index + 1) * len(values) // count]
        groups.append(max((value for value in part if value is not None), default=None))
    return groups


def _block(value: float, highest: float) -> str:
    if highest <= 0 or value <= 0:
        return _BLOCKS[0]
    return _BLOCKS[min(len(_BLOCKS) - 1, math.ceil(value / highest * len(_BLOCKS)) - 1)]

"""Line and step charts as SVG text, without scripts, fonts or other files."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

COLOURS: Final = ("#1b6ca8", "#d1495b", "#2e933c", "#a06cd5", "#edae49", "#00798c", "#8d6a4f", "#5c5c5c")
_WIDTH: Final = 860
_HEIGHT: Final = 260
_LEFT: Final = 62
_RIGHT: Final = 16
_TOP: Final = 12
_BOTTOM: Final = 44
_TICKS: Final = 6


@dataclass(frozen=True)
class Series:
    """The points of one line. With ``steps``, a value holds until the next point; with ``dots``, no line is drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False
    dots: bool = False
    colour: str = ""


def chart(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """An HTML figure: an SVG element with axes and ticks, and a legend. Points that are not finite are left out."""
    shown = _shown(series)
    legend = "".join(
        f'<span><i style="background:{s.colour}"></i>{html.escape(s.name)}</span>' for s in shown if s.name
    )
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>{_axes(title, shown, x_label, y_label)}</svg>"
        f'<p class="legend">{legend}</p></figure>'
    )


def drawing(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """The chart as the text of an SVG file, which includes the legend."""
    shown = _shown(series)
    legend = "".join(
        f'<rect x="{_WIDTH - 220}" y="{_HEIGHT - _BOTTOM - 20 - 16 * at}" width="12" height="8" fill="{s.colour}"/>'
        f'<text x="{_WIDTH - 202}" y="{_HEIGHT - _BOTTOM - 12 - 16 * at}">{html.escape(s.name)}</text>'
        for at, s in enumerate(reversed([s for s in shown if s.name]))
    )
    return f"{_axes(title, shown, x_label, y_label)}{legend}</svg>\n"


def _shown(series: Sequence[Series]) -> list[Series]:
    """The series with their finite points, each with a colour."""
    return [
        Series(
            s.name,
            [(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)],
            s.steps,
            s.dots,
            s.colour or COLOURS[index % len(COLOURS)],
        )
        for index, s in enumerate(series)
    ]


def _axes(title: str, shown: Sequence[Series], x_label: str, y_label: str) -> str:
    """The axes and lines as an SVG element without its closing tag."""
    xs = [x for s in shown for x, _ in s.points] or [0.0, 1.0]
    ys = [y for s in shown for _, y in s.points] or [0.0, 1.0]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    scale = _Scale(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11" style="background:#fff">'
    ]
    for x in x_ticks:
        at = scale.x(x)
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_HEIGHT - _BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{_number(x)}</text>')
    for y in y_ticks:
        at = scale.y(y)
        parts.append(f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH - _RIGHT}" y2="{at:.1f}" stroke="#eee"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    parts += [_line(s, scale) for s in shown]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text>"
    )
    return "".join(parts)


@dataclass(frozen=True)
class _Scale:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, that enclose ``low`` and ``high``."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / _TICKS
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough - 1e-12)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def _line(series: Series, scale: _Scale) -> str:
    if series.dots:
        return "".join(
            f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.5" fill="{series.colour}"/>'
            for x, y in series.points
        )
    path: list[str] = []
    for index, (x, y) in enumerate(series.points):
        if index and series.steps:
            path.append(f"H{scale.x(x):.1f}")
        path.append(f"{'L' if index else 'M'}{scale.x(x):.1f} {scale.y(y):.1f}")
    return f'<path d="{"".join(path)}" fill="none" stroke="{series.colour}" stroke-width="1.6"/>'


def _number(value: float) -> str:
    return f"{value:.6g}"

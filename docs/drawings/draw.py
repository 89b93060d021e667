"""The drawings of docs/drawings, as SVG: `python docs/generate.py` writes them, and checks that they are up to date.

Each has a background of its own and follows the reader's light or dark scheme, so that it can be read on any page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

from cascade_api.documents import load_cascades
from cascade_profiler.frontier.hull import hull, points

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "shapes.yaml"
STYLE: Final = """
svg { --paper: #ffffff; --ink: #1c2430; --dim: #5a6675; --line: #8a95a3 }
svg { --light: #d7ecff; --heavy: #ffe0c2; --ours: #e4f3e0 }
@media (prefers-color-scheme: dark) {
  svg { --paper: #161b22; --ink: #e6edf3; --dim: #a3afbd; --line: #76828f }
  svg { --light: #17405f; --heavy: #6b3d12; --ours: #23482a }
}
.paper { fill: var(--paper) } .box { fill: var(--paper); stroke: var(--line); stroke-width: 1.5 }
.light { fill: var(--light) } .heavy { fill: var(--heavy) } .ours { fill: var(--ours) }
text { font: 14px system-ui, sans-serif; fill: var(--ink); text-anchor: middle }
.small { font-size: 12px; fill: var(--dim) } .left { text-anchor: start } .right { text-anchor: end }
.arrow { stroke: var(--line); stroke-width: 1.5; fill: none; marker-end: url(#head) } .head { fill: var(--line) }
.axis { stroke: var(--line); fill: none } .hull { stroke: var(--ink); stroke-width: 2; fill: none }
.dot { fill: var(--line) }
"""

Point = tuple[float, float]


class Drawing:
    """An SVG in the making; coordinates are pixels, from the top left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            f' aria-label="{escape(title)}">'
            f"\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="head" d="M0 0 8 4 0 8z"/></marker>\n'
        )
        self._parts = [f'<rect class="paper" width="{width}" height="{height}" rx="8"/>']

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """One line of text around x, on the base line y."""
        self._parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str] = (), kind: str = "") -> None:
        """A box with its first line large, and the others below it small."""
        self._parts.append(
            f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
        )
        top = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
        for index, line in enumerate(lines):
            self.text(x + width / 2, top + 17 * index, line, "small" if index else "")

    def arrow(self, *places: Point, label: str = "", at: Point = (0, 0)) -> None:
        """A line through places with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in places)
        self._parts.append(f'<polyline class="arrow" points="{path}"/>')
        if label:
            self.text(*at, label, "small")

    def line(self, places: Sequence[Point], kind: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self._parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def dot(self, x: float, y: float, radius: float = 2.5) -> None:
        self._parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')

    def svg(self) -> str:
        return self._head + "\n".join(self._parts) + "\n</svg>\n"


def drawings() -> Iterator[tuple[str, str]]:
    """Every drawing as (file name, SVG)."""
    yield "prompt.svg", prompt()
    yield "decision.svg", decision()
    yield "shared-worker.svg", shared_worker()
    yield "frontier.svg", frontier()


def prompt() -> str:
    """The way of a prompt."""
    d = Drawing(860, 270, "The way of a prompt through the router, the light variant and the heavy variant")
    d.box(20, 90, 90, 56, ["client", "gRPC, HTTP"])
    d.box(160, 76, 170, 84, ["router", "deadline, tenant, queue:", "admit or refuse;", "hardness of the text"], "ours")
    d.box(430, 40, 170, 64, ["light variant", "image and confidence"], "light")
    d.box(430, 170, 170, 64, ["heavy variant", "image"], "heavy")
    d.box(730, 90, 110, 56, ["answer", "image, route, cost"])
    d.arrow((110, 118), (158, 118))
    d.arrow((330, 100), (380, 100), (380, 72), (428, 72), label="the others", at=(380, 62))
    d.arrow((330, 136), (380, 136), (380, 202), (428, 202), label="direct: the hardest", at=(364, 224))
    d.arrow((600, 62), (785, 62), (785, 88), label="confident: accepted", at=(690, 52))
    d.arrow((515, 104), (515, 168), label="doubtful: escalated", at=(578, 140))
    d.arrow((600, 202), (785, 202), (785, 148), label="in time", at=(690, 194))
    too_late = "An escalation that would be too late is not begun: the light image is the answer (degraded)."
    d.text(20, 258, too_late, "small left")
    return d.svg()


def decision() -> str:
    """The way of a decision."""
    d = Drawing(860, 250, "The five stages of a decision: observed, forecast, target, moves, plan")
    stages = [
        ("observed", "work, queues,", "workers, hosts"),
        ("forecast", "demand that", "comes next"),
        ("target", "variants, shares,", "who hosts what"),
        ("moves", "next safe steps", "towards it"),
        ("plan", "shares, batches,", "and the reason"),
    ]
    for index, (name, *lines) in enumerate(stages):
        x = 20 + 168 * index
        d.box(x, 40, 138, 76, [name, *lines], "ours")
        if index:
            d.arrow((x - 30, 78), (x - 2, 78))
    d.box(20, 170, 138, 56, ["Redis", "what routers report"])
    d.arrow((89, 170), (89, 118))
    d.box(524, 170, 138, 56, ["workers", "load, unload, start"], "light")
    d.arrow((593, 116), (593, 168))
    d.box(692, 170, 138, 56, ["Redis, routers", "follow the plan"])
    d.arrow((761, 116), (761, 168))
    d.text(340, 200, "Every few seconds; each stage is a pure function", "small")
    d.text(340, 217, "of the one before. If data is missing, the last plan stays.", "small")
    return d.svg()


def shared_worker() -> str:
    """A worker that hosts the weights of both variants, and how they share its time."""
    d = Drawing(860, 300, "A shared worker hosts several weights, and short work overtakes long work at a step")
    d.box(20, 20, 320, 220)
    d.text(180, 44, "worker: one accelerator")
    d.box(40, 60, 280, 40, ["agent: loads and unloads as it is told"], "ours")
    d.box(40, 112, 280, 112)
    d.text(180, 132, "Triton")
    d.box(56, 144, 116, 66, ["light weights", "2 steps"], "light")
    d.box(188, 144, 116, 66, ["heavy weights", "12 and 24 steps"], "heavy")
    d.text(370, 40, "time on the accelerator", "left")
    x = 370.0
    for kind, width in [("heavy", 42)] * 4 + [("light", 30)] + [("heavy", 42)] * 4 + [("light", 30)] + [("heavy", 42)]:
        d.box(x, 112, width, 44, kind=kind)
        x += width
    d.arrow((548, 84), (548, 108), label="a light prompt comes", at=(548, 76))
    d.text(370, 182, "The heavy image pauses at the end of a step; the light one is done at once.", "small left")
    d.text(370, 202, "Variants of the same weights need no more memory.", "small left")
    d.text(370, 222, "Moving load between hosted variants costs nothing.", "small left")
    d.arrow((370, 260), (840, 260))
    d.text(605, 280, "time", "small")
    return d.svg()


def frontier() -> str:
    """The rows of the built-in cascade's profile, and the best of their mixtures."""
    profile = load_cascades(EXAMPLE.read_text(), source=EXAMPLE.name).profiles[0].spec
    measured = points(profile, "cpu")
    rows = [(point.gpu_seconds, point.metric) for point in measured]
    best = [(point.gpu_seconds, point.metric) for point in hull(measured)]
    d = Drawing(860, 380, "Quality against time per image of every row of a profile, with the frontier above them")
    left, right, top, bottom = 90, 820, 40, 320
    longest = max(x for x, _ in rows)
    low, high = min(y for _, y in rows), max(y for _, y in rows)

    def place(point: Point) -> Point:
        x, y = point
        return left + (right - left) * x / longest, bottom - (bottom - top) * (y - low) / (high - low)

    for row in rows:
        d.dot(*place(row))
    d.line([place(point) for point in best], "hull")
    d.line([(left, top - 10), (left, bottom + 10), (right + 10, bottom + 10)], "axis")
    d.text((left + right) / 2, 360, "accelerator-seconds per image", "small")
    d.text(left + 8, 24, f"quality ({low:.3f} to {high:.3f})", "small left")
    for value in (0.0, longest / 2, longest):
        d.text(place((value, low))[0], 345, f"{value:.3f}", "small")
    first, last = place(best[0]), place(best[-1])
    d.text(first[0] + 14, first[1] - 4, "all light", "small left")
    d.text(last[0], last[1] - 10, "the best row", "small right")
    d.text((left + right) / 2, 190, "dots: rows (r, d) of the profile; line: the frontier that plans mix from", "small")
    return d.svg()

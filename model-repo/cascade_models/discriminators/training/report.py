"""Reports the evaluation of a discriminator: figures, a reliability table, and the reliability curve as SVG."""

from __future__ import annotations

import pathlib

from cascade_models.discriminators.training import fitting

SIDE, EDGE = 320, 40


def summary(found: fitting.Judgement) -> str:
    """The figures in one line."""
    auc, ece = found.intervals["auc"], found.intervals["ece"]
    return (
        f"{len(found.labels)} held-out images, {found.labels.mean():.0%} good: AUC {found.auc:.3f} "
        f"({auc[0]:.3f} to {auc[1]:.3f}), calibration error {found.ece:.3f} ({ece[0]:.3f} to {ece[1]:.3f})"
    )


def write(folder: pathlib.Path, found: fitting.Judgement) -> None:
    """Write ``reliability.md`` and ``reliability.svg`` beside a discriminator."""
    table = "\n".join(
        f"| {row.low:.1f} to {row.high:.1f} | {row.count} | {row.confidence:.2f} | {row.right:.2f} |"
        for row in found.bins
    )
    text = f"{summary(found)}\n\n| confidence | images | mean confidence | good |\n|---|---|---|---|\n{table}\n"
    (folder / "reliability.md").write_text(text, encoding="utf-8")
    (folder / "reliability.svg").write_text(curve(found), encoding="utf-8")


def curve(found: fitting.Judgement) -> str:
    """The share of good images against confidence; the area of a dot is the number of images."""

    def x(value: float) -> float:
        return EDGE + value * SIDE

    def y(value: float) -> float:
        return EDGE + (1 - value) * SIDE

    most = max(row.count for row in found.bins)
    dots = "".join(
        f'<circle cx="{x(row.confidence):.1f}" cy="{y(row.right):.1f}" r="{2 + 10 * (row.count / most) ** 0.5:.1f}" '
        'fill="#1b6ca8" fill-opacity="0.7"/>'
        for row in found.bins
    )
    marks = "".join(
        f'<text x="{x(value):.0f}" y="{y(0) + 16:.0f}" text-anchor="middle">{value:g}</text>'
        f'<text x="{x(0) - 6:.0f}" y="{y(value) + 4:.0f}" text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    size = SIDE + 2 * EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="11">'
        f'<rect x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>'
        f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="#bbb"/>{dots}{marks}'
        f'<text x="{size / 2}" y="{size - 6}" text-anchor="middle">mean confidence</text>'
        f'<text x="{size / 2}" y="24" text-anchor="middle">share that is good; AUC {found.auc:.3f}, '
        f"error {found.ece:.3f}</text></svg>\n"
    )

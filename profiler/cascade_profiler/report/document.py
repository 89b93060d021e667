"""The HTML document of a report: one file that needs no others."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_STYLE: Final = """
body { font: 15px/1.5 sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
figure { margin: 1.5em 0 }
figcaption { font-weight: 600 }
.legend span { margin-right: 1.2em; font-size: 13px }
.legend i { display: inline-block; width: 1em; height: .6em; margin-right: .4em }
details { margin: .5em 0; font-size: 13px }
.samples img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A page with a title; ``parts`` are HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of text and pictures; a cell that begins with ``<img `` is HTML, all others are text."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{top}</tr>{body}</table>'


def picture(image: npt.NDArray[np.uint8], description: str) -> str:
    """An image ``[height, width, 3]`` inside the page, at most 256 pixels wide."""
    shown = Image.fromarray(image)
    shown.thumbnail((256, 256))
    held = io.BytesIO()
    shown.save(held, "PNG", optimize=True)
    data = base64.b64encode(held.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def _cell(text: str) -> str:
    return text if text.startswith("<img ") else html.escape(text)

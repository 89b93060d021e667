"""Shows a router's cascades on the whole terminal, again and again."""

from __future__ import annotations

import contextlib
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cascade_api.command import CommandFailed

from . import drawing
from .source import Source


def run(console: Console, source: Source, *, wanted: str, every_s: float) -> None:
    """Look every ``every_s`` seconds until Ctrl-C; if no router answers, say so, and ask again."""
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        last: RenderableType = Text("")
        while True:
            try:
                last = shown = drawing.draw(source.look(), wanted=wanted)
            except CommandFailed as failure:
                shown = Group(Text(str(failure), style="bold red"), last)
            live.update(shown, refresh=True)
            time.sleep(every_s)

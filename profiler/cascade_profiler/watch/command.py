"""`cascade top`: watches the cascades of a router in a terminal, or prints what they do once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Optional

import typer

from cascade_api.command import CommandFailed
from cascade_api.local import default_state_dir, read_addresses

LEAST_S: Final = 0.2


def register(app: typer.Typer) -> None:
    """Add `cascade top`."""
    app.command()(top)


def top(
    cascade: Annotated[
        str, typer.Argument(help="Cascade to show; default: all of the router's.", show_default=False)
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Print once, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with --once.")] = False,
    every: Annotated[float, typer.Option(min=LEAST_S, help="Seconds between two looks.")] = 1.0,
    http: Annotated[
        str,
        typer.Option(metavar="URL", help="The router, such as https://images.example; default: the local run's."),
    ] = "",
    ca: Annotated[Optional[Path], typer.Option(help="PEM of the router's authority.")] = None,  # noqa: UP045
    certificate: Annotated[Optional[Path], typer.Option(help="PEM of a client certificate.")] = None,  # noqa: UP045
    key: Annotated[Optional[Path], typer.Option(help="PEM of the certificate's key.")] = None,  # noqa: UP045
    api_key: Annotated[str, typer.Option(envvar="CASCADE_API_KEY", help="Key of a tenant.")] = "",
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="State directory of the local run.", show_default=False),
    ] = None,
) -> None:
    """Watch what cascades do and why: plan, latency, shares, queues, workers, the last hour, decisions.

    Ctrl-C ends it.
    """
    from cascade_router.commands import Access

    from .source import Source

    if json and not once:
        raise CommandFailed("--json needs --once", code=2)
    access = Access(ca=ca, certificate=certificate, key=key, api_key=api_key)
    access.check()
    url = _url(http) if http else _local(state_dir or default_state_dir())
    source = Source(url, api_key=api_key, context=access.context() if url.startswith("https:") else None)
    view = source.look()
    if json:
        chosen = [each for each in view.cascades if cascade in ("", each.name, each.cascade)]
        typer.echo(view.model_copy(update={"cascades": chosen}).model_dump_json(by_alias=True, indent=2))
        return
    from rich.console import Console

    from . import drawing

    console = Console()
    if once:
        console.print(drawing.draw(view, wanted=cascade))
        return
    from .live import run

    run(console, source, wanted=cascade, every_s=every)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise CommandFailed(f"--http: {text!r} is no URL; write for example http://127.0.0.1:8000", code=2)
    return text.rstrip("/")


def _local(state_dir: Path) -> str:
    addresses = read_addresses(state_dir)
    if addresses is None:
        raise CommandFailed(
            f"no cascade runs from {state_dir}; start one with `cascade up`, or name a running router with --http"
        )
    return f"http://{addresses.http}"

"""`cascade load`: sends requests to a running service at a given rate, and accounts for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Optional

import typer

from cascade_api.command import seconds

MOST_RATE: Final = 100_000.0
"""A higher rate, in requests per second, is taken for a mistake."""


def register(app: typer.Typer) -> None:
    """Add `cascade load`."""
    app.command()(load)


def load(
    rate: Annotated[
        float,
        typer.Option(min=0.01, max=MOST_RATE, help="Requests per second on average (Poisson arrivals)."),
    ],
    duration: Annotated[str, typer.Option(help="How long requests arrive, for example 30s; seconds without a unit.")],
    deadline: Annotated[str, typer.Option(help="The deadline of each request.")] = "2s",
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and prompts.")] = 0,
    prompts: Annotated[
        str, typer.Option(help="shapes (or shapes:heldout, shapes:test), or a file with a prompt a line.")
    ] = "shapes",
    sizes: Annotated[
        str,
        typer.Option(metavar="SIZE=PART,…", help="Sizes that requests name, in these parts: 512x512=1,1024x1024=2."),
    ] = "",
    cascade: Annotated[str, typer.Option(help="Cascade to use; needed if several are served.")] = "",
    grpc: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The service; default: the local run's, else 127.0.0.1:8001.")
    ] = "",
    max_in_flight: Annotated[int, typer.Option(min=1, help="Most requests in flight.")] = 1000,
    retry_lost: Annotated[
        bool, typer.Option("--retry-lost", help="Send a request that lost its connection once more, with its id.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option("--state-dir", help="Where the local run keeps its addresses.", show_default=False),
    ] = None,
) -> None:
    """Send prompts at a rate, however quickly they are answered; print latency, shares, violations and quality.

    Ctrl-C ends the arrivals, waits for the requests in flight and prints the results so far, with exit code 130; a
    second Ctrl-C ends the command at once. The exit code is 1 if a request was neither answered nor refused, or was
    answered twice.
    """
    from .session import LoadTestOptions, run

    result = run(
        LoadTestOptions(
            rate=rate,
            duration_s=seconds(duration, option="--duration"),
            deadline_s=seconds(deadline, option="--deadline"),
            seed=seed,
            prompts=prompts,
            sizes=sizes,
            cascade=cascade,
            grpc=grpc,
            max_in_flight=max_in_flight,
            retry_lost=retry_lost,
            state_dir=state_dir,
        )
    )
    if json:
        import json as encoder

        typer.echo(encoder.dumps(result.data, indent=2))
    else:
        typer.echo(result.text)
    if not result.data["balanced"]:
        raise typer.Exit(1)
    if result.interrupted:
        raise typer.Exit(130)

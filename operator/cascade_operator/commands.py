"""The operator's subcommands of `cascade`: up, down, example, status, plan, doctor.

Everything except typer is imported when a command runs. So the command line stays quick, and an image without the
libraries of local mode still has the other commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cascade_api.command import read_text
from cascade_api.local import default_state_dir

from .findings import Finding

File = Annotated[Path, typer.Option("--file", "-f", help="Manifest with a DiffusionCascade and its CascadeProfile.")]
StateDirectory = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
    typer.Option("--state-dir", help="Where a local run keeps its lock, logs and addresses.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this component's commands to `cascade`."""
    app.command()(up)
    app.command()(down)
    app.command()(example)
    app.command()(status)
    app.command()(plan)
    app.command()(doctor)


def up(
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--file", "-f", help="Manifest; default: the built-in example.", show_default=False),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is ready; `down` stops it.")] = False,
    grpc: Annotated[str, typer.Option(help="Where to serve gRPC.", metavar="HOST:PORT")] = "127.0.0.1:8001",
    http: Annotated[str, typer.Option(help="Where to serve HTTP.", metavar="HOST:PORT")] = "127.0.0.1:8000",
    state_dir: StateDirectory = None,
    redis_url: Annotated[
        str,
        typer.Option(
            envvar="REDIS_URL",
            help="A Redis that runs already; default: start one. Put a URL with a password into the variable.",
        ),
    ] = "",
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Serve a manifest's cascades on this machine: Redis, router, Triton servers and planner.

    The first run sets up Triton in $XDG_DATA_HOME/diffusion-cascade, by default below ~/.local/share.
    """
    from .local.console import print_line
    from .local.options import EXAMPLE, LocalOptions

    options = LocalOptions(
        manifest=file or EXAMPLE,
        state_dir=state_dir or default_state_dir(),
        grpc=grpc,
        http=http,
        redis_url=redis_url or None,
    )
    if detach:
        from .local import detached

        typer.echo(detached.start(options, say=print_line))
        return
    from .local.reporting import reporter_for

    with reporter_for(ready_fd) as reporter:
        from cascade_api.documents import load_cascades

        from .local import greeting, session

        manifest = load_cascades(read_text(options.manifest), source=str(options.manifest))
        session.run(
            options,
            manifest,
            say=reporter.say,
            ready=lambda addresses, took_s: reporter.ready(
                greeting.text(manifest, addresses, took_s=took_s, state_dir=state_dir, detached=ready_fd >= 0)
            ),
        )


def down(state_dir: StateDirectory = None) -> None:
    """Stop what `cascade up` started, and clean up after a crash."""
    from .local import ending
    from .local.state import StateDir

    ending.stop(StateDir(state_dir or default_state_dir()), say=typer.echo)


def example() -> None:
    """Print the built-in example, a cascade with its measured profile, to begin a file of your own with."""
    from .local.options import EXAMPLE

    typer.echo(read_text(EXAMPLE), nl=False)


def status(state_dir: StateDirectory = None, json: Json = False) -> None:
    """Show the pools, the plan and its reason, demand, shares and conditions of the local run."""
    from .local import overview
    from .local.state import StateDir

    seen = overview.collect(StateDir(state_dir or default_state_dir()))
    typer.echo(overview.as_json(seen) if json else overview.as_text(seen))


def plan(
    file: File,
    demand: Annotated[
        float, typer.Option(min=0.0, help="Requests per second to plan for; at least one per objective is.")
    ],
    json: Json = False,
) -> None:
    """Print what would be decided for a demand, without doing it."""
    from cascade_api.documents import load_cascades

    from . import whatif

    decided = whatif.decide_for(load_cascades(read_text(file), source=str(file)), demand=demand, source=str(file))
    typer.echo(whatif.as_json(decided) if json else whatif.as_text(decided))


def doctor(
    state_dir: StateDirectory = None,
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--file", "-f", help="Manifest to check against this machine.", show_default=False),
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="Check a cluster instead, with the operator's settings and this account's rights."
        ),
    ] = False,
) -> None:
    """Say what is wrong with this set-up, and how to fix it; the exit code is 1 if something is wrong."""
    wrong = False

    def tell(finding: Finding) -> None:
        nonlocal wrong
        typer.echo(str(finding))
        wrong = wrong or finding.problem

    if cluster:
        import asyncio

        from cascade_api.settings import OperatorSettings, from_environment

        from . import cluster_diagnosis

        async def look() -> None:
            async for finding in cluster_diagnosis.examine(from_environment(OperatorSettings)):
                tell(finding)

        asyncio.run(look())
    else:
        from .local import diagnosis

        for finding in diagnosis.examine(state_dir or default_state_dir(), file):
            tell(finding)
    if wrong:
        raise typer.Exit(1)

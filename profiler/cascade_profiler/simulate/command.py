"""`cascade simulate`: policies on a trace, without a cluster."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from .turns import Turns


def register(app: typer.Typer) -> None:
    """Add `cascade simulate`."""
    app.command()(simulate)


def simulate(
    profile: Annotated[str, typer.Option(help="A file with a CascadeProfile, or a reference profile (hadis-726).")],
    trace: Annotated[
        list[str],
        typer.Option(
            help="A file (seconds[,prompt], or trace_*.csv in milliseconds), a reference trace (hadis_1to64), or a "
            "generator: poisson, diurnal, bursts, flash, on-off with parameters, as in flash:rate=16,seconds=200. "
            "CASCADE=TRACE is for one cascade of a file with WorkerPools, and may be repeated."
        ),
    ],
    policy: Annotated[str, typer.Option(help="One or more policies, separated by commas.")] = "hybrid",
    workers: Annotated[
        str, typer.Option(help="Accelerators: a number, or CLASS=N,…; default: those of the file's cascade.")
    ] = "",
    objective: Annotated[
        str, typer.Option(help="Deadline of a request in the trace's own seconds; default: that of the cascade.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs per policy.")] = 5,
    switch_seconds: Annotated[
        Optional[float],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option(
            min=0,
            max=86400,
            help="Seconds of every switch and start; default: the profile's (published systems: 0).",
            show_default=False,
        ),
    ] = None,
    hosting: Annotated[
        str,
        typer.Option(
            help="What workers of the product host: dedicated (one variant each) or shared (all); default: the file's "
            "cascade's, else dedicated."
        ),
    ] = "",
    turns: Annotated[
        str, typer.Option(help="How shared workers share their time: short-first (at a step) or even.")
    ] = Turns.SHORT_FIRST.value,
    no_worse_than: Annotated[
        str, typer.Option(help="Quality floor of the product, in units of the metric; default: the file's cascade's.")
    ] = "",
    scorer: Annotated[str, typer.Option(help="Hardness scorer of the product: rules or coin-flip.")] = "",
    fail: Annotated[
        str, typer.Option(metavar="AT:FOR:COUNT", help="Lose COUNT accelerators at second AT for FOR seconds.")
    ] = "",
    sizes: Annotated[
        str,
        typer.Option(metavar="SIZE=PART,…", help="Sizes that requests name, in these parts: 512x512=1,1024x1024=2."),
    ] = "",
    elastic: Annotated[
        str,
        typer.Option(
            metavar="[CLASS=]SECONDS",
            help="The accelerators are on Nodes that do not exist yet, of which each takes so many seconds to come.",
        ),
    ] = "",
    no_nodes: Annotated[
        str, typer.Option(metavar="AT:FOR", help="No Node comes from second AT on, for FOR seconds.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
    report: Annotated[str, typer.Option(metavar="FILE.html", help="Write a page with plots.")] = "",
) -> None:
    """Play a trace through policies; print realised quality, violations, latency and switches.

    `hybrid` is the product's own planning, routing and dispatch code; all others are the published systems, as in their
    published code. The cascades of a file with WorkerPools are simulated together, each with a trace of its own.
    """
    from .session import SimulationOptions, run

    run(
        SimulationOptions(
            profile=profile,
            traces=tuple(trace),
            policy=policy,
            workers=workers,
            objective=objective,
            seeds=seeds,
            switch_seconds=switch_seconds,
            hosting=hosting,
            turns=turns,
            no_worse_than=no_worse_than,
            scorer=scorer,
            fail=fail,
            sizes=sizes,
            elastic=elastic,
            no_nodes=no_nodes,
            json=json,
            report=report,
        )
    )

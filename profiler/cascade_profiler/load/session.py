"""Runs `cascade load`: finds the service, sends the requests, and sums up."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from cascade_api.addresses import split_address
from cascade_api.command import CommandFailed, check_text
from cascade_api.local import default_state_dir, read_addresses
from cascade_api.names import DEFAULT_NAMESPACE, CascadeRef
from cascade_api.plan import Plan
from cascade_operator.store import Store

from ..frontier.inputs import size_parts
from . import arrivals, summary
from .client import Client, Reply, find_model
from .course import Course
from .generator import PROGRESS_EVERY_S, Generator, Load
from .ledger import Ledger
from .prompts import is_shapes, prompts
from .verdicts import Gallery

DEFAULT_GRPC: Final = "127.0.0.1:8001"


@dataclass(frozen=True)
class LoadTestOptions:
    """The options of the command line; for an empty string, the default is looked up."""

    rate: float
    duration_s: float
    deadline_s: float
    seed: int
    prompts: str
    sizes: str
    cascade: str
    grpc: str
    max_in_flight: int
    retry_lost: bool
    state_dir: Path | None


@dataclass(frozen=True)
class Result:
    """The result as data and as text, and whether a Ctrl-C ended the arrivals."""

    data: dict[str, Any]
    text: str
    interrupted: bool


def run(options: LoadTestOptions) -> Result:
    """Run the load test. Raises CommandFailed if it cannot begin."""
    # Standard output is for the result, so logs go to standard error.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return asyncio.run(_run(options))


async def _run(options: LoadTestOptions) -> Result:
    parts = size_parts(options.sizes)
    texts = prompts(options.prompts, seed=options.seed)
    addresses = read_addresses(options.state_dir or default_state_dir())
    here = addresses is not None and options.grpc in ("", addresses.grpc)
    grpc = options.grpc or (addresses.grpc if addresses else DEFAULT_GRPC)
    try:
        split_address(grpc)
    except ValueError as error:
        raise CommandFailed(f"--grpc: {error}", code=2) from None
    check_text(options.cascade, option="--cascade")
    model = await find_model(grpc, wanted=options.cascade)
    gallery = Gallery(rng=random.Random(options.seed)) if is_shapes(options.prompts) and not parts else None  # noqa: S311
    ledger = Ledger(deadline_s=options.deadline_s)
    course = Course(every_s=PROGRESS_EVERY_S)
    client = Client(grpc, model=model, deadline_s=options.deadline_s)
    store = Store(addresses.redis) if addresses and here else None

    async def current_plan() -> Plan | None:
        return await store.plan(_ref(model)) if store else None

    def answered(prompt: str, reply: Reply) -> None:
        if gallery is not None:
            gallery.add(prompt, reply.image)

    def progress(elapsed_s: float) -> None:
        course.note(ledger)
        _print(summary.progress_line(ledger, elapsed_s))

    rng = random.Random(options.seed)  # noqa: S311 - arrivals, not secrets
    try:
        generator = Generator(
            Load(
                arrivals=arrivals.poisson(rate=options.rate, duration_s=options.duration_s, rng=rng),
                prompts=texts,
                sizes=arrivals.sizes(parts, rng=random.Random(options.seed)),  # noqa: S311 - not secrets
                max_in_flight=options.max_in_flight,
                retry_lost=options.retry_lost,
            ),
            service=client,
            ledger=ledger,
            current_plan=current_plan,
            answered=answered,
            progress=progress,
        )
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            """Stop the arrivals, and remove this handler, so that the next Ctrl-C ends the command at once."""
            loop.remove_signal_handler(signal.SIGINT)
            generator.stop()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        await generator.run()
    finally:
        await client.close()
        if store is not None:
            await store.close()
    quality = gallery.judge() if gallery is not None else None
    data = summary.as_data(ledger, rate=options.rate, duration_s=options.duration_s, quality=quality)
    return Result(data, "\n".join([summary.as_text(data), *course.lines()]), interrupted=generator.stopped)


def _ref(model: str) -> CascadeRef:
    """The cascade of a model name, which is ``name``, or ``namespace.name`` if several namespaces have the name."""
    namespace, dot, name = model.partition(".")
    return CascadeRef(namespace, name) if dot else CascadeRef(DEFAULT_NAMESPACE, model)


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

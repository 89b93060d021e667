"""One run of `cascade up`, from start to signal."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Final

from cascade_api.command import CommandFailed
from cascade_api.documents import CascadeFile
from cascade_api.local import Addresses

from .console import Say
from .options import LocalOptions
from .stack import LocalStack

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: LocalOptions, file: CascadeFile, *, say: Say, ready: Callable[[Addresses, float], None]) -> None:
    """Serve until a signal stops it; ``ready`` is called with the addresses and the seconds that starting took.

    Raises CommandFailed if it cannot start; then nothing is left running.
    """
    asyncio.run(_serve(options, file, say=say, ready=ready))


async def _serve(
    options: LocalOptions, file: CascadeFile, *, say: Say, ready: Callable[[Addresses, float], None]
) -> None:
    told_to_stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in SIGNALS:
        running.add_signal_handler(number, told_to_stop.set)
    began = time.monotonic()
    stack = LocalStack(options, file, say=say)
    starting = asyncio.ensure_future(stack.start())
    stopping = asyncio.ensure_future(told_to_stop.wait())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            raise CommandFailed("stopped before it was ready", code=130)
        ready(starting.result(), time.monotonic() - began)
        await stopping
        say("stopping")
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await stack.stop()

"""One run of `cascade up`: in this terminal, or as a process of its own that reports to the one that started it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import structlog

from cascade_api.command import CommandFailed
from cascade_api.documents import CascadeFile
from cascade_api.local import Addresses

from .stack import LocalStack, Options
from .state import AlreadyRunning, Lock, StateDir, log_tail
from .supervisor import script

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


def run(options: Options, file: CascadeFile, *, say: Say, ready: Callable[[Addresses, float], None]) -> None:
    """Serve until a signal says stop; ``ready`` gets the addresses and how long it took (s).

    Raises CommandFailed, with nothing left running, where it cannot start.
    """
    asyncio.run(_serve(options, file, say=say, ready=ready))


async def _serve(options: Options, file: CascadeFile, *, say: Say, ready: Callable[[Addresses, float], None]) -> None:
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


def log_to(state: StateDir) -> None:
    """Send the log of this process to a file of the state directory, as JSON lines."""
    with contextlib.suppress(OSError):
        state.prepare()
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.WriteLoggerFactory(file=state.log_file("operator").open("a", buffering=1)),
        )


class Reporter:
    """The end of the pipe on which a detached run tells how its start goes."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: IO[str] | None = os.fdopen(descriptor, "w", buffering=1)

    def say(self, line: str) -> None:
        self._send({"say": line})

    def ready(self, addresses: Addresses, took_s: float) -> None:
        self._send({"ready": addresses.wire(), "took_s": took_s})
        self._close()

    def failed(self, failure: CommandFailed) -> None:
        self._send({"failed": str(failure), "code": failure.code})
        self._close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._pipe is not None:
            try:
                self._pipe.write(json.dumps(message) + "\n")
            except OSError:
                self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.close()
            self._pipe = None


def start_detached(options: Options, *, say: Say) -> tuple[Addresses, float]:
    """Start a run in a session of its own, and wait until it is ready; its addresses and the seconds that it took.

    Raises CommandFailed, with nothing left running, where it cannot start.
    """
    state = StateDir(options.state_dir)
    try:
        state.prepare()
    except OSError as error:
        raise CommandFailed(f"--state-dir: cannot write {state.path}: {error.strerror}") from None
    output = state.log_file("supervisor")
    reading, writing = os.pipe()
    with output.open("ab") as log:
        process = subprocess.Popen(
            [script("cascade"), "up", *_arguments(options), f"--ready-fd={writing}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            start_new_session=True,
            cwd="/",
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            for line in pipe:
                message = json.loads(line)
                if "say" in message:
                    say(message["say"])
                elif "ready" in message:
                    return Addresses.model_validate(message["ready"]), float(message["took_s"])
                else:
                    process.wait()
                    raise CommandFailed(message["failed"], code=message["code"])
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    status = process.wait()
    raise CommandFailed(f"`cascade up` ended with {status} before it was ready; {output}:\n{log_tail(output)}")


def _arguments(options: Options) -> list[str]:
    arguments = [
        f"--file={options.manifest.resolve()}",
        f"--grpc={options.grpc}",
        f"--http={options.http}",
        f"--state-dir={options.state_dir.resolve()}",
    ]
    return arguments + ([f"--redis-url={options.redis_url}"] if options.redis_url else [])


def stop(state: StateDir, *, say: Say, timeout_s: float = 10.0) -> None:
    """End the run that holds a state directory, and tidy up after one that crashed; raises CommandFailed."""
    pid = state.holder()
    if pid is None:
        _tidy(state, say)
        return
    began = told = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while state.holder() == pid:
        now = time.monotonic()
        if now - began > timeout_s:
            say(f"process {pid} does not end: killing it")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            began = now
        elif now - told > 2.0:
            told = now
            say(f"waiting for process {pid} to end")
        time.sleep(0.05)
    left = state.crashed() is not None
    say(f"stopped (process {pid})")
    if left:
        _tidy(state, say)


def _tidy(state: StateDir, say: Say) -> None:
    if not state.path.is_dir():
        say(f"nothing runs from {state.path}")
        return
    crashed = state.crashed()
    try:
        lock = Lock(state)
    except AlreadyRunning as other:
        raise CommandFailed(f"process {other.pid} has just started from {state.path}") from None
    done = state.sweep()
    lock.release()
    if crashed is None and not done:
        say(f"nothing runs from {state.path}")
        return
    say(f"process {crashed} had ended without tidying up" if crashed else "nothing ran any more")
    for line in done:
        say(line)


def stamp(line: str) -> str:
    """A line with the time of day before it."""
    return f"{time.strftime('%H:%M:%S')}  {line}"


def read_text(file: Path) -> str:
    """A manifest's text; raises CommandFailed with exit code 2 where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"--file: cannot read {file}: {error.strerror}", code=2) from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"--file: {file} is not UTF-8 text: {error}", code=2) from None


def print_line(line: str) -> None:
    """Print a line at once, whoever reads."""
    sys.stdout.write(stamp(line) + "\n")
    sys.stdout.flush()

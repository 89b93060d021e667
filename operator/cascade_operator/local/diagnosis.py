"""The checks of `cascade doctor`: each finding says what is fine, or what is wrong and how to fix it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cascade_api.command import CommandFailed, read_text
from cascade_api.documents import CascadeFile, load_cascades
from cascade_api.local import Addresses, read_addresses
from cascade_api.names import CPU_CLASS

from ..findings import Finding
from ..store import Store
from .ports import check_free, parse_address
from .router_client import RouterClient
from .services import check_models, redis_binary, without_password
from .stack import slots_of
from .state import SHARED_MEMORY, StateDir
from .supervisor import ChildFailed, script

OLDEST_PYTHON: Final = (3, 11)
SHARED_MEMORY_PER_SLOT: Final = 4 * 1024 * 1024
REINSTALL: Final = "install diffusion-cascade[local] again"
DEFAULT_ADDRESSES: Final = {"--grpc": "127.0.0.1:8001", "--http": "127.0.0.1:8000"}


def examine(state_dir: Path, manifest: Path | None) -> Iterator[Finding]:
    """Make one check after the other; if ``manifest`` is None, the manifest that runs is checked, if one does."""
    state = StateDir(state_dir)
    running = state.holder()
    addresses = read_addresses(state_dir) if running else None
    yield _python()
    yield _triton()
    yield _redis_binary()
    path = manifest or (state.manifest if running else None)
    file: CascadeFile | None = None
    if path is not None:
        finding, file = _manifest(path)
        yield finding
    if path is not None and file is not None:
        yield _weights(path)
        yield _cores(file)
    yield from _shared_memory(state, file, running)
    yield from _run(state, running)
    yield from asyncio.run(_running(addresses)) if addresses else _ports()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", version, True, "use Python 3.11 or newer")
    return Finding("python", f"{version} ({sys.executable})")


def _triton() -> Finding:
    """Let `cascade-triton` look for its environment, with a folder that is not a model repository."""
    try:
        launcher = script("cascade-triton")
    except ChildFailed as error:
        return Finding("triton", str(error), True, REINSTALL)
    missing = "/nonexistent/cascade-doctor"
    command = [launcher, "--model-repository", missing, "--grpc-address", "127.0.0.1:65535"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    said = done.stderr.strip().removeprefix("cascade-triton: ")
    if missing in said:
        return Finding("triton", f"{launcher} finds its environment")
    fix = "`cascade up` and `cascade-triton setup` set it up"
    return Finding("triton", said or f"the launcher ended with {done.returncode}", True, fix)


def _redis_binary() -> Finding:
    url = os.environ.get("REDIS_URL")
    if url:
        try:
            return Finding("redis", f"REDIS_URL names {without_password(url)}; `cascade up` starts none")
        except CommandFailed as error:
            return Finding("redis", str(error), True, "correct it, or unset REDIS_URL")
    try:
        binary = redis_binary()
    except CommandFailed as error:
        return Finding("redis", str(error), True, REINSTALL)
    return Finding("redis", f"{binary}")


def _manifest(path: Path) -> tuple[Finding, CascadeFile | None]:
    try:
        file = load_cascades(read_text(path), source=str(path))
    except CommandFailed as error:
        return Finding("manifest", str(error), True, "correct the named fields"), None
    names = ", ".join(str(cascade.ref) for cascade in file.cascades)
    return Finding("manifest", f"{path}: {names}"), file


def _weights(path: Path) -> Finding:
    try:
        asyncio.run(check_models(path))
    except CommandFailed as error:
        return Finding("weights", str(error), True, "make the weights (`make models`), or pin those that exist")
    return Finding("weights", "exist, with the revisions that the manifest pins")


def _cores(file: CascadeFile) -> Finding:
    cores = len(os.sched_getaffinity(0))
    try:
        slots = slots_of(file)
    except CommandFailed as error:
        return Finding("cores", str(error), True, f"give spec.workers a pool of class {CPU_CLASS}")
    if slots > cores:
        return Finding("cores", f"{slots} slots share {cores} cores: that works, but the slots slow each other down")
    return Finding("cores", f"{cores} for {slots} slots")


def _shared_memory(state: StateDir, file: CascadeFile | None, running: int | None) -> Iterator[Finding]:
    if not SHARED_MEMORY.is_dir():
        yield Finding("shared memory", f"no {SHARED_MEMORY}", True, "mount a tmpfs there: Triton needs it")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = SHARED_MEMORY_PER_SLOT * (slots_of(file) if file is not None and _local(file) else 2)
    if free < needed:
        fix = "remove files that are not needed there, or make it larger (docker run --shm-size=256m)"
        yield Finding("shared memory", f"{free >> 20} MiB free of {needed >> 20} MiB needed", True, fix)
    else:
        yield Finding("shared memory", f"{free >> 20} MiB free")
    stale = state.segments() if running is None else []
    if stale:
        yield Finding("shared memory", f"{len(stale)} segments of a run that ended", True, "run `cascade down`")


def _local(file: CascadeFile) -> bool:
    try:
        return slots_of(file) > 0
    except CommandFailed:
        return False


def _run(state: StateDir, running: int | None) -> Iterator[Finding]:
    if running is not None:
        yield Finding("run", f"process {running}, state in {state.path}")
        return
    crashed = state.crashed()
    if crashed is not None:
        yield Finding("run", f"process {crashed} ended without cleaning up", True, "run `cascade down`")
    orphans = state.processes()
    if orphans:
        pids = ", ".join(str(process.pid) for process in orphans)
        yield Finding("run", f"servers of an earlier run are left: {pids}", True, "run `cascade down`")


def _ports() -> Iterator[Finding]:
    for flag, text in DEFAULT_ADDRESSES.items():
        try:
            check_free(parse_address(text, flag=flag), flag=flag)
        except CommandFailed as error:
            yield Finding("port", str(error), True, f"or start with {flag} 127.0.0.1:PORT")
        else:
            yield Finding("port", f"{text} is free")


async def _running(addresses: Addresses) -> list[Finding]:
    findings = []
    async with Store(addresses.redis) as store:
        version, refusal = await store.version(), store.refusal
    url = without_password(addresses.redis)
    if version is None:
        findings.append(Finding("redis", f"{url} {refusal or 'does not answer'}", True, "see logs/redis.log"))
    else:
        findings.append(Finding("redis", f"{url} answers (version {version})"))
    router = RouterClient(addresses.grpc)
    alive = await router.alive()
    await router.close()
    if alive:
        findings.append(Finding("router", f"{addresses.grpc} answers"))
    else:
        findings.append(Finding("router", f"{addresses.grpc} does not answer", True, "see logs/router.log"))
    host, _, port = addresses.http.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            findings.append(Finding("http", f"{addresses.http} accepts connections"))
    except OSError as error:
        findings.append(Finding("http", f"{addresses.http}: {error}", True, "see logs/router.log"))
    return findings

"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_given: set[int] = set()
_chance = random.SystemRandom()


def free_port() -> int:
    """A port of this machine that nobody listens on and that this run of the tests was not given before.

    None of those that the kernel gives to connections: while a server is away, its port stays free for it.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    lasting = [*range(10_000, first), *range(last + 1, 65_536)] or [0]
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", _chance.choice(lasting)))
            port = int(probe.getsockname()[1])
            if port not in _given:
                _given.add(port)
                return port


def listens_at(file: Path) -> bool:
    """Whether a server accepts connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as trial:
        return trial.connect_ex(str(file)) == 0


def listens(port: int) -> bool:
    """Whether a server accepts connections at a port of this machine."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0

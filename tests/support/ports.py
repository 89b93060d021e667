"""Ports for servers of our own."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port() -> int:
    """A port of this machine that nobody listens on and that this run of the tests was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def listens(port: int) -> bool:
    """Whether anybody takes connections at a port of this machine."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0

"""Addresses that local mode listens on: read, checked before anything starts, and explained when taken."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass

import psutil

from cascade_api.command import CommandFailed


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, flag: str) -> Address:
    """Read ``HOST:PORT``; port 0 becomes one that is free. Raises CommandFailed, naming the flag."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise CommandFailed(f"{flag}: {text!r} is not HOST:PORT; write for example 127.0.0.1:8001", code=2)
    return Address(host, int(port) or _free(host))


def check_free(address: Address, *, flag: str) -> None:
    """Raises CommandFailed where the address cannot be listened on, with who has it and what to do."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
            trial.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandFailed(
                f"{flag}: port {address.port} of {address.host} is in use{_user_of(address.port)}: "
                f"end what listens there, or choose another port with {flag} {address.host}:PORT"
            ) from None
        raise CommandFailed(f"{flag}: cannot listen on {address}: {error.strerror or error}") from None


def _free(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])


def _user_of(port: int) -> str:
    """Who listens on a port, as far as that may be known."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            if listening and connection.laddr and connection.laddr.port == port and connection.pid:
                return f" (by {psutil.Process(connection.pid).name()}, process {connection.pid})"
    return ""

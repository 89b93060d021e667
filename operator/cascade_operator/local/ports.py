"""The addresses on which local mode listens: they are checked before anything starts; an error says who uses them."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass

import psutil

from cascade_api.addresses import split_address
from cascade_api.command import CommandFailed


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, flag: str) -> Address:
    """Read ``HOST:PORT``; port 0 is replaced by a free one. Raises CommandFailed, which names the flag."""
    try:
        host, port = split_address(text)
    except ValueError as error:
        raise CommandFailed(f"{flag}: {error}", code=2) from None
    try:
        return Address(host, port or _free(host))
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(text, error, flag=flag) from None


def check_free(address: Address, *, flag: str) -> None:
    """Raise CommandFailed if the address cannot be listened on; the message says who uses it and what to do."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
            trial.listen(1)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise CommandFailed(
                f"{flag}: port {address.port} of {address.host} is in use{_user_of(address.port)}: "
                f"end what listens there, or choose another port with {flag} {address.host}:PORT"
            ) from None
        raise _cannot_listen(str(address), error, flag=flag) from None


def _cannot_listen(address: str, error: OSError | UnicodeError, *, flag: str) -> CommandFailed:
    # A name with an empty part cannot even be looked up, and gives a UnicodeError.
    why = (error.strerror or error) if isinstance(error, OSError) else "not the name of a host"
    return CommandFailed(f"{flag}: cannot listen on {address}: {why}")


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now."""
    return _free("127.0.0.1")


def _free(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])


def _user_of(port: int) -> str:
    """The process that listens on a port, in words; empty if this user may not know it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            if listening and connection.laddr and connection.laddr.port == port and connection.pid:
                return f" (by {psutil.Process(connection.pid).name()}, process {connection.pid})"
    return ""

"""Addresses on which servers listen, of the network or Unix sockets, and whether they are free and private."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cascade_models.agent.installation import LaunchError

UNIX: Final = "unix:"
_LONGEST_SOCKET: Final = 107
"""Bytes of a Unix socket's path that the kernel takes."""


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens; ``host`` is an IP address, a host name, or ``unix:PATH``."""

    host: str
    port: int

    @property
    def socket_file(self) -> Path | None:
        """The Unix socket of gRPC, as Triton names it: ``PATH:PORT``; None for an address of the network."""
        path = self.host.removeprefix(UNIX)
        return None if path == self.host else Path(f"{path}:{self.port}")

    @property
    def ip(self) -> str:
        """The host as Triton takes it."""
        try:
            return str(ipaddress.ip_address(self.host))
        except ValueError:
            return self.host

    def __str__(self) -> str:
        bare = self.socket_file is not None or ":" not in self.host
        return f"{self.host}:{self.port}" if bare else f"[{self.host}]:{self.port}"

    @classmethod
    def parse(cls, text: str, option: str = "--grpc-address") -> ServerAddress:
        """Reads ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH:NUMBER``; raises LaunchError."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise LaunchError(f"{option}: {text!r} is not HOST:PORT; write for example 127.0.0.1:8101")
        return cls(host, int(port))


def check_address_is_free(address: ServerAddress) -> None:
    """Raises LaunchError where the address cannot be bound now, or where others than this user could reach a socket."""
    if address.socket_file is not None:
        check_folder_is_private(address.socket_file.parent, "--grpc-address")
        free_socket(address.socket_file, "--grpc-address")
        return
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
            trial.listen(1)
    except OSError as error:
        in_use = f"port {address.port} of {address.host} is in use: choose another port, or end what listens there"
        why = in_use if error.errno == 98 else f"cannot listen on {address.host}:{address.port}: {error.strerror}"
        raise LaunchError(f"--grpc-address: {why}") from None


def check_folder_is_private(folder: Path, option: str) -> None:
    """Raises LaunchError unless a folder is this user's and closed to others: who enters it controls the server."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise LaunchError(f"{option}: {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise LaunchError(f"{option}: {folder} must be a folder of your own that nobody else may enter: chmod 700 it")


def free_socket(file: Path, option: str) -> None:
    """Removes the Unix socket of a server that is gone; raises LaunchError where one listens, or none can."""
    if len(os.fsencode(file)) > _LONGEST_SOCKET:
        raise LaunchError(f"{option}: {file} is longer than the {_LONGEST_SOCKET} bytes that a socket's path may have")
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(file))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not file.is_socket():
                raise LaunchError(f"{option}: {file} is there, and is no socket: choose another path") from None
            file.unlink(missing_ok=True)
            return
        except OSError as error:
            raise LaunchError(f"{option}: {file}: {error.strerror}") from None
    raise LaunchError(f"{option}: {file} is in use: choose another path, or end what listens there")

"""`cascade-triton agent`: hosts what it is told, in a Triton that it starts as its child, until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import ssl
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cascade_models import repository
from cascade_models.agent import options
from cascade_models.agent.addresses import UNIX, ServerAddress, check_folder_is_private, free_socket
from cascade_models.agent.command_line import check_id
from cascade_models.agent.hosting import Hosting
from cascade_models.agent.installation import Installation, LaunchError, check_usable, server_folder
from cascade_models.agent.port import Port
from cascade_models.agent.processes import pin_to_core
from cascade_models.agent.server import Server, ServerOptions
from cascade_models.agent.wanted import Memory, WantedHosts

SHORTEST_KEY: Final = 32


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or SIGINT; raises LaunchError where it cannot begin."""
    given = parser().parse_args(arguments)
    with _exclusive(Path(given.folder)):
        asyncio.run(_serve(given, _server_options(given)))
        if given.listen is not None and given.listen.startswith(UNIX):
            Path(given.listen.removeprefix(UNIX)).unlink(missing_ok=True)


def _server_options(given: argparse.Namespace) -> ServerOptions:
    check_id(given.replica_id)
    installation = Installation.find(Path(os.path.abspath(given.triton_env)))
    check_usable(server_folder(installation), "TMPDIR")
    folder = Path(os.path.abspath(given.folder))
    check_usable(folder, "--folder")
    http = Path(os.path.abspath(given.http_socket or folder / "http"))
    _make_private(http.parent, "--http-socket")
    metrics = ServerAddress.parse(given.metrics_address, "--metrics-address") if given.metrics_address else None
    grpc = given.grpc_address
    address = ServerAddress(grpc, 0) if grpc.startswith(UNIX) else ServerAddress.parse(grpc)
    if given.core is not None:
        pin_to_core(given.core)
    return ServerOptions(
        installation, folder / "models", address, http, metrics, given.replica_id, exit_timeout_s=given.exit_timeout
    )


async def _serve(given: argparse.Namespace, server: ServerOptions) -> None:
    running = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, told_to_end.set)

    def render(wanted: WantedHosts, there: Iterable[str]) -> None:
        server.repository.mkdir(parents=True, exist_ok=True)
        repository.render(wanted.recipes, server.repository, keep=tuple(there))

    hosting = Hosting(
        start_server=lambda: Server.start(server), render=render, say=_say, exit_timeout_s=given.exit_timeout
    )
    memory = Memory(Path(given.folder) / "hosts.json")
    try:
        hosting.want(memory.recall() or WantedHosts())
    except OSError as error:
        raise LaunchError(f"--folder: {error.filename}: {error.strerror}") from None
    listening = await _listen(given, Port(hosting, keep=memory.keep, key=_key(given)))
    work = asyncio.ensure_future(hosting.run())
    ending = asyncio.ensure_future(told_to_end.wait())
    await asyncio.wait([work, ending], return_when=asyncio.FIRST_COMPLETED)
    if listening is not None:
        listening.close()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _listen(given: argparse.Namespace, port: Port) -> asyncio.Server | None:
    if given.listen is None:
        return None
    try:
        if given.listen.startswith(UNIX):
            file = Path(given.listen.removeprefix(UNIX))
            _make_private(file.parent, "--listen")
            free_socket(file, "--listen")
            return await port.listen_unix(str(file))
        address = ServerAddress.parse(given.listen, "--listen")
        return await port.listen(address.host, address.port, _tls(given))
    except OSError as error:
        raise LaunchError(f"--listen: cannot listen on {given.listen}: {error.strerror or error}") from None


def _tls(given: argparse.Namespace) -> ssl.SSLContext | None:
    if given.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(given.tls_certificate, given.tls_key)
    except OSError as error:
        raise LaunchError(f"--tls-certificate, --tls-key: {error}") from None
    return context


def _key(given: argparse.Namespace) -> str | None:
    """The key that clients need; None on a Unix socket, whose folder nobody else may enter."""
    if given.listen is None or given.listen.startswith(UNIX):
        return None
    if given.key_file is None:
        raise LaunchError("--listen: on the network everybody could say what to host: name a file with a --key-file")
    try:
        key = Path(given.key_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"--key-file: {given.key_file}: {error}") from None
    if len(key) < SHORTEST_KEY:
        raise LaunchError(f"--key-file: {given.key_file}: the key has fewer than {SHORTEST_KEY} characters")
    return key


def _make_private(folder: Path, option: str) -> None:
    """Make a folder for sockets if there is none; raises LaunchError unless it is this user's alone."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder_is_private(folder, option)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Use of a folder by this agent alone; raises LaunchError where another has it, or it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LaunchError(f"--folder: {folder} is in use by another agent: name another") from None
            yield
    except OSError as error:
        raise LaunchError(f"--folder: {error.filename}: {error.strerror}") from None


def _say(line: str) -> None:
    sys.stderr.write(f"cascade-triton agent: {line}\n")
    sys.stderr.flush()


def parser() -> argparse.ArgumentParser:
    """The command line of `cascade-triton agent`."""
    parser = argparse.ArgumentParser(
        prog="cascade-triton agent",
        description="Start a Triton inference server, and have it host what this agent is told, whatever breaks.",
    )
    parser.add_argument(
        "--folder", required=True, metavar="DIR", help="its own: model repository, and what it was told last"
    )
    parser.add_argument(
        "--grpc-address",
        required=True,
        metavar="HOST:PORT",
        help="where Triton answers clients; unix:PATH: on Unix sockets whose names begin so",
    )
    parser.add_argument(
        "--http-socket",
        metavar="FILE",
        help="Triton's Unix socket for this agent and for probes, in a private folder (default: http in the folder)",
    )
    parser.add_argument(
        "--listen", metavar="ADDRESS", help="HOST:PORT or unix:PATH where to be told what to host; absent: nowhere"
    )
    parser.add_argument("--key-file", metavar="FILE", help="the key that clients of --listen on the network must send")
    parser.add_argument("--tls-certificate", metavar="FILE", help="serve --listen with TLS, with this certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="the key of the certificate")
    parser.add_argument("--metrics-address", metavar="HOST:PORT", help="where Triton serves Prometheus metrics")
    options.add(parser)
    return parser

"""Turns this process into a tritonserver on a model repository: `cascade-triton`.

Needs the standard library only. The Triton environment is a virtual environment with the nvidia-pytriton wheel, which
carries a genuine tritonserver, its python backend and one stub per Python version, but not laid out as a server
expects them. The launcher links them into a server folder (once per environment), sets what the server and its stubs
need to find each other, and replaces itself by the server, so that the process id stays.

Whoever may load a model into a Triton can have it run any code, and whoever may register shared memory can read it. So
a server that listens on a network address keeps the models that it began with: everything but inference and reading is
locked there, for everybody. Models can be loaded and unloaded over a Unix socket, in a folder of the user's own.

In a pod it first renders the repository from the cascade's document (`--cascade`; that part needs this package's
libraries), and `cascade-triton probe` asks the running server for proof that its model draws.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import ipaddress
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

EXIT_CODE: Final = 2
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux keeps it, and so Triton
EXIT_TIMEOUT_S: Final = 5
"""How long a server that was told to end waits for inferences in flight, unless told otherwise."""

_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PR_SET_PDEATHSIG: Final = 1
_UNIX: Final = "unix:"
_LONGEST_SOCKET: Final = 107
"""Bytes of a Unix socket's path that the kernel takes."""
_NEVER_NEEDED: Final = ("shared-memory", "trace", "logging")
_CONTROL: Final = ("model-repository", "model-config")
_NO_HEADER: Final = "LOCKED"
"""A gRPC header that no client can send: HTTP/2 knows no capital letters in names."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class LaunchError(Exception):
    """The server cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens; ``host`` is an IP address, a host name, or ``unix:PATH``."""

    host: str
    port: int

    @property
    def socket_file(self) -> Path | None:
        """The Unix socket of gRPC, as Triton names it: ``PATH:PORT``; None for an address of the network."""
        path = self.host.removeprefix(_UNIX)
        return None if path == self.host else Path(f"{path}:{self.port}")

    @classmethod
    def parse(cls, text: str, option: str = "--grpc-address") -> ServerAddress:
        """Reads ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH:NUMBER``; raises LaunchError."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise LaunchError(f"{option}: {text!r} is not HOST:PORT; write for example 127.0.0.1:8101")
        return cls(host, int(port))


@dataclass(frozen=True)
class Installation:
    """Where Triton's parts are, and the environment that its stubs use.

    Attributes:
        server: the folder with bin, backends and caches.
        stub: what runs a model of the python backend.
        libraries: folders for the loader beside those it looks in anyway.
    """

    environment: Path
    server: Path
    stub: Path
    libraries: tuple[Path, ...]

    @classmethod
    def find(cls, environment: Path) -> Installation:
        """The Triton of a virtual environment, or else NVIDIA's, which its image keeps outside.

        Raises LaunchError where the environment or a part of it is missing.
        """
        fix = "run `make setup`, or name the environment that holds nvidia-pytriton in CASCADE_TRITON_ENV"
        interpreter = environment / "bin" / "python"
        if not interpreter.exists():
            raise LaunchError(f"no Triton environment at {environment}: {fix}")
        for site in sorted(environment.glob("lib/python3.*/site-packages")):
            wheel = site / "pytriton" / "tritonserver"
            if (wheel / "bin" / "tritonserver").is_file():
                break
        else:
            server = Path(os.environ.get("CASCADE_TRITON_SERVER") or "/opt/tritonserver")
            if (server / "bin" / "tritonserver").is_file():
                stub = server / "backends" / "python" / "triton_python_backend_stub"
                return cls(environment=environment, server=server, stub=stub, libraries=())
            raise LaunchError(f"{environment} holds no tritonserver: {fix}")
        python = site.parent.name.removeprefix("python")
        if not (wheel / "python_backend_stubs" / python).is_dir():
            raise LaunchError(f"Triton has no stub for Python {python} of {environment}: use one of 3.11 to 3.12")
        python_libraries = Path(os.path.realpath(interpreter)).parent.parent / "lib"
        library = f"libpython{python}.so.1.0"
        folders = (python_libraries, python_libraries / str(sysconfig.get_config_var("MULTIARCH")))
        if not any((folder / library).exists() for folder in folders):
            raise LaunchError(
                f"Python {python} of {environment} lacks {library} in {python_libraries}: "
                "make the environment with a Python that was built with --enable-shared"
            )
        return cls(
            environment=environment,
            server=wheel,
            stub=wheel / "python_backend_stubs" / python / "triton_python_backend_stub",
            libraries=(site / "nvidia_pytriton.libs", python_libraries),
        )

    def links(self) -> dict[str, Path]:
        """What a server folder holds: path in it to the file or folder that it stands for."""
        package = Path(__file__).resolve().parent
        backend = self.server / "backends" / "python"
        return {
            "bin/tritonserver": self.server / "bin" / "tritonserver",
            "caches/local": self.server / "caches" / "local",
            "backends/python/libtriton_python.so": backend / "libtriton_python.so",
            "backends/python/triton_python_backend_utils.py": backend / "triton_python_backend_utils.py",
            "backends/python/triton_python_backend_stub": self.stub,
            # Stubs ignore PYTHONPATH but import from this folder: this package, and nothing else of its environment,
            # whose numpy may not suit Triton.
            f"backends/python/{package.name}": package,
        }


def server_folder(installation: Installation) -> Path:
    """The folder of links for an installation, made when it is not there yet; safe beside other launchers.

    Raises LaunchError where it cannot be written.
    """
    links = installation.links()
    missing = [str(target) for target in links.values() if not target.exists()]
    if missing:
        raise LaunchError(f"{installation.environment} is incomplete, it lacks {missing[0]}: run `make setup` again")
    identity = hashlib.sha256("\n".join(f"{name}={target}" for name, target in links.items()).encode()).hexdigest()
    parent = installation.environment / "share" / "cascade-triton"
    folder = parent / identity[:16]
    if folder.is_dir() and _plain(folder):
        return folder
    writable = os.access(parent if parent.is_dir() else installation.environment, os.W_OK)
    if not (writable and _plain(folder)):
        # A container's root file system is read-only; and what is in a folder of links may be anywhere.
        parent = _private_folder()
        folder = parent / identity[:16]
        if folder.is_dir():
            return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        for name, target in links.items():
            link = scratch / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            # Another launcher was first; its links are the same.
            shutil.rmtree(scratch)
            if not folder.is_dir():
                raise
    except OSError as error:
        raise LaunchError(f"cannot write the server folder {folder}: {error.strerror}") from None
    return folder


def _private_folder() -> Path:
    """This user's folder for temporary server folders: what lies there is run, so nobody else may have written it.

    Raises LaunchError where somebody else has made it, or could write to it.
    """
    user = os.geteuid()
    folder = Path(tempfile.gettempdir()) / f"cascade-triton-{user}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()
    except OSError as error:
        raise LaunchError(f"cannot write the server folder {folder}: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return folder
    raise LaunchError(
        f"{folder} is not a folder of user {user} alone (mode 0700), so others may have put programs there: "
        "remove it, or name another folder in TMPDIR"
    )


def _plain(path: Path) -> bool:
    """Whether Triton can use a path: it starts stubs through a shell, with words unquoted, and in the C locale."""
    return shlex.quote(str(path)) == str(path)


def server_environment(installation: Installation, inherited: dict[str, str]) -> dict[str, str]:
    """Environment variables of the server and, through it, of its stubs."""
    values = {name: value for name, value in inherited.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    values |= dict.fromkeys(_ONE_THREAD, "1")
    if installation.libraries:
        values["LD_LIBRARY_PATH"] = ":".join(map(str, installation.libraries))
    values["PATH"] = f"{installation.environment / 'bin'}:{inherited.get('PATH', os.defpath)}"
    return values


@dataclass(frozen=True)
class Frontends:
    """Where a server listens beside gRPC (None: nowhere), and how long it takes its leave.

    ``http`` is a Unix socket, for the probe beside the server.
    """

    http: Path | None = None
    metrics: ServerAddress | None = None
    exit_timeout_s: int = EXIT_TIMEOUT_S

    def flags(self) -> list[str]:
        """The server's flags."""
        flags = [
            f"--exit-timeout-secs={self.exit_timeout_s}",
            f"--allow-http={'false' if self.http is None else 'true'}",
            f"--allow-metrics={'false' if self.metrics is None else 'true'}",
        ]
        if self.http is not None:
            flags.append(f"--http-address={_UNIX}{self.http}")
        if self.metrics is not None:
            flags += [f"--metrics-address={_host(self.metrics)}", f"--metrics-port={self.metrics.port}"]
        return flags


def lock_flags(address: ServerAddress) -> list[str]:
    """The flags that lock what nobody needs, and what only the server's own user may do.

    Triton locks by a header that must have a value. The value is thrown away here; it also stands on the server's
    command line, which other users of the machine may read, so the header of gRPC is one that cannot be sent.
    """
    locked = ",".join(_NEVER_NEEDED if address.socket_file is not None else (*_NEVER_NEEDED, *_CONTROL))
    key = f"{_NO_HEADER}={secrets.token_urlsafe(32)}"
    return [
        f"--grpc-restricted-protocol={locked}:{key}",
        f"--http-restricted-api={','.join((*_NEVER_NEEDED, *_CONTROL))}:{key}",
    ]


def server_command(
    folder: Path, repository: Path, address: ServerAddress, *, models: list[str], replica_id: str, frontends: Frontends
) -> list[str]:
    """The server's command line."""
    return [
        str(folder / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={folder / 'backends'}",
        f"--cache-directory={folder / 'caches'}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        *frontends.flags(),
        *lock_flags(address),
        f"--grpc-address={_host(address)}",
        f"--grpc-port={address.port}",
        f"--id={replica_id}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(replica_id, address)}",
        *(f"--load-model={model}" for model in models),
    ]


def shared_memory_prefix(replica_id: str, address: ServerAddress) -> str:
    """What the names of a server's shared-memory segments begin with: no two servers that run share it."""
    return f"{replica_id}.{address.port}."


def sweep_shared_memory(prefix: str, folder: Path = SHARED_MEMORY) -> int:
    """Removes what a killed server with that prefix left behind; returns the number of segments."""
    left = [file for file in folder.iterdir() if file.name.startswith(prefix)] if folder.is_dir() else []
    for file in left:
        file.unlink(missing_ok=True)
    return len(left)


def check_repository(repository: Path, models: list[str]) -> None:
    """Raises LaunchError unless the repository and the models to load at start are there."""
    if not repository.is_dir():
        raise LaunchError(f"--model-repository: no folder {repository}: make it with `cascade model-repo render`")
    for model in models:
        if not (repository / model / "config.pbtxt").is_file():
            there = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
            known = f"it holds {', '.join(there)}" if there else "it is empty: run `cascade model-repo render`"
            raise LaunchError(f"--load: no model {model!r} in {repository}; {known}")


def render(cascade: Path, repository: Path, models: list[str]) -> None:
    """Makes the repository of the models to load, from the cascade's document; raises LaunchError."""
    # Only a pod renders; elsewhere the launcher does without what rendering needs.
    from cascade_models import manifest
    from cascade_models import repository as repositories

    try:
        variants = manifest.read_variants(cascade.read_text(encoding="utf-8"))
        missing = sorted(set(models) - {variant.model for variant in variants})
        if missing:
            known = ", ".join(f"{variant.model} ({variant.name})" for variant in variants)
            raise LaunchError(f"--load: {cascade} has no weights {missing[0]!r}; it has {known}")
        repository.mkdir(parents=True, exist_ok=True)
        repositories.render(repositories.models_of([v for v in variants if v.model in models]), repository)
    except manifest.ManifestError as error:
        raise LaunchError(f"--cascade: {cascade}: {error}") from None
    except OSError as error:
        raise LaunchError(f"--cascade: {error.filename}: {error.strerror}") from None


def check_address_is_free(address: ServerAddress) -> None:
    """Raises LaunchError where the address cannot be bound now, or where others than this user could reach a socket."""
    if address.socket_file is not None:
        check_folder_is_private(address.socket_file.parent)
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


def check_folder_is_private(folder: Path) -> None:
    """Raises LaunchError unless a folder is this user's and closed to others: who enters it controls the server."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise LaunchError(f"--grpc-address: {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise LaunchError(
            f"--grpc-address: {folder} must be a folder of your own that nobody else may enter: chmod 700 it"
        )


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


def launch(arguments: argparse.Namespace) -> NoReturn:
    """Becomes the server; raises LaunchError where it cannot."""
    if not _ID.fullmatch(arguments.replica_id):
        raise LaunchError(
            f"--replica-id: {arguments.replica_id!r} is not a name: use up to 64 letters, digits, dots, dashes"
        )
    address = ServerAddress.parse(arguments.grpc_address)
    frontends = Frontends(
        http=Path(os.path.abspath(arguments.http_socket)) if arguments.http_socket else None,
        metrics=(
            ServerAddress.parse(arguments.metrics_address, option="--metrics-address")
            if arguments.metrics_address
            else None
        ),
        exit_timeout_s=arguments.exit_timeout,
    )
    installation = Installation.find(Path(os.path.abspath(arguments.triton_env)))
    repository = Path(os.path.abspath(arguments.model_repository))
    if arguments.cascade is not None:
        render(Path(arguments.cascade), repository, arguments.load)
    check_repository(repository, arguments.load)
    folder = server_folder(installation)
    for path, fix in ((repository, "--model-repository"), (folder, "TMPDIR")):
        if not _plain(path):
            raise LaunchError(
                f"Triton cannot use {str(path)!r}: name a folder, with {fix}, whose path has no white space, "
                "only ASCII letters, digits and _@%+=:,./-"
            )
    check_address_is_free(address)
    if frontends.http is not None:
        free_socket(frontends.http, "--http-socket")
    # The port is ours now, so nobody alive owns segments of this name.
    sweep_shared_memory(shared_memory_prefix(arguments.replica_id, address))
    if arguments.core is not None:
        try:
            os.sched_setaffinity(0, {arguments.core})
        except OSError:
            allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise LaunchError(f"--core: core {arguments.core} is not available here: use one of {allowed}") from None
    if arguments.die_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    command = server_command(
        folder,
        repository,
        address,
        models=arguments.load,
        replica_id=arguments.replica_id,
        frontends=frontends,
    )
    environment = server_environment(installation, dict(os.environ))
    try:
        os.execve(command[0], command, environment)  # noqa: S606 - the point of a launcher
    except OSError as error:
        raise LaunchError(f"cannot run {command[0]}: {error.strerror}") from None


def default_environment() -> Path:
    """``CASCADE_TRITON_ENV``, else ``.venv-triton`` beside the running environment."""
    return Path(os.environ.get("CASCADE_TRITON_ENV") or Path(sys.prefix).parent / ".venv-triton")


def parser() -> argparse.ArgumentParser:
    """The command line of `cascade-triton`."""
    options = argparse.ArgumentParser(
        prog="cascade-triton", description="Run a Triton inference server on a model repository, in this process."
    )
    options.add_argument("--model-repository", required=True, metavar="DIR", help="made by `cascade model-repo render`")
    options.add_argument(
        "--grpc-address",
        required=True,
        metavar="HOST:PORT",
        help="where to listen; unix:PATH:NUMBER: on the Unix socket PATH:NUMBER, over which models can be loaded too",
    )
    options.add_argument(
        "--cascade", metavar="FILE", help="render the repository from this document first (as a pod does)"
    )
    options.add_argument("--http-socket", metavar="FILE", help="serve HTTP on this Unix socket, for probes")
    options.add_argument("--metrics-address", metavar="HOST:PORT", help="serve Prometheus metrics there")
    options.add_argument(
        "--exit-timeout",
        type=int,
        default=EXIT_TIMEOUT_S,
        metavar="S",
        help="how long a server that is told to end finishes what it has in hand",
    )
    options.add_argument("--load", action="append", default=[], metavar="MODEL", help="load at start; repeatable")
    options.add_argument("--replica-id", default="replica", metavar="ID", help="names the server and its shared memory")
    options.add_argument(
        "--die-with-parent", action="store_true", help="end in good order when the process that started this one ends"
    )
    options.add_argument("--core", type=int, metavar="N", help="run on this core only")
    options.add_argument(
        "--triton-env",
        default=default_environment(),
        metavar="VENV",
        help="environment with nvidia-pytriton (default: $CASCADE_TRITON_ENV, else .venv-triton beside this one)",
    )
    return options


def main() -> None:
    """Entry point: every error is one line and exit code 2."""
    if sys.argv[1:2] == ["probe"]:
        from cascade_models import probe

        sys.exit(probe.main(sys.argv[2:]))
    try:
        launch(parser().parse_args())
    except LaunchError as error:
        sys.stderr.write(f"cascade-triton: {error}\n")
        sys.exit(EXIT_CODE)


def _host(address: ServerAddress) -> str:
    return str(ipaddress.ip_address(address.host)) if _is_ip(address.host) else address.host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    main()

"""Turns this process into a tritonserver on a model repository: for the profiler, and for people who try a model.

It needs the standard library only. It replaces itself by the server, so that the process id stays. On a network address
the server keeps the models that it begins with. On a Unix socket, in a folder of the user's own, models can be loaded
and unloaded.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import NoReturn

from cascade_models.agent import options
from cascade_models.agent.addresses import ServerAddress, check_address_is_free, free_socket
from cascade_models.agent.command_line import (
    Frontends,
    check_id,
    server_command,
    shared_memory_prefix,
    sweep_shared_memory,
)
from cascade_models.agent.installation import (
    Installation,
    LaunchError,
    check_usable,
    server_environment,
    server_folder,
)
from cascade_models.agent.processes import end_with_parent, pin_to_core


def check_repository(repository: Path, models: list[str]) -> None:
    """Raises LaunchError unless the repository and the models to load at start are there."""
    if not repository.is_dir():
        raise LaunchError(f"--model-repository: no folder {repository}: make it with `cascade model-repo render`")
    for model in models:
        if not (repository / model / "config.pbtxt").is_file():
            there = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
            known = f"it holds {', '.join(there)}" if there else "it is empty: run `cascade model-repo render`"
            raise LaunchError(f"--load: no model {model!r} in {repository}; {known}")


def launch(arguments: argparse.Namespace) -> NoReturn:
    """Becomes the server; raises LaunchError where it cannot."""
    check_id(arguments.replica_id)
    address = ServerAddress.parse(arguments.grpc_address)
    frontends = Frontends(
        http=Path(os.path.abspath(arguments.http_socket)) if arguments.http_socket else None,
        exit_timeout_s=arguments.exit_timeout,
    )
    installation = Installation.find(Path(os.path.abspath(arguments.triton_env)))
    repository = Path(os.path.abspath(arguments.model_repository))
    check_repository(repository, arguments.load)
    folder = server_folder(installation)
    check_usable(repository, "--model-repository")
    check_usable(folder, "TMPDIR")
    check_address_is_free(address)
    if frontends.http is not None:
        free_socket(frontends.http, "--http-socket")
    # The port is ours now, so nobody alive owns segments of this name.
    prefix = shared_memory_prefix(arguments.replica_id, address)
    sweep_shared_memory(prefix)
    if arguments.core is not None:
        pin_to_core(arguments.core)
    if arguments.die_with_parent:
        end_with_parent(signal.SIGTERM)
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


def parser() -> argparse.ArgumentParser:
    """The command line of `cascade-triton`."""
    parser = argparse.ArgumentParser(
        prog="cascade-triton",
        description="Run a Triton inference server on a model repository, in this process.",
        epilog="Also: `cascade-triton agent --help`, which hosts what it is told, `cascade-triton probe --help`, and "
        "`cascade-triton setup --help`, which makes Triton's environment.",
    )
    parser.add_argument("--model-repository", required=True, metavar="DIR", help="made by `cascade model-repo render`")
    parser.add_argument(
        "--grpc-address",
        required=True,
        metavar="HOST:PORT",
        help="where to listen; unix:PATH:NUMBER: on the Unix socket PATH:NUMBER, over which models can be loaded too",
    )
    parser.add_argument("--http-socket", metavar="FILE", help="serve HTTP on this Unix socket, for probes")
    parser.add_argument("--load", action="append", default=[], metavar="MODEL", help="load at start; repeatable")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end in good order when the process that started this one ends"
    )
    options.add(parser)
    return parser

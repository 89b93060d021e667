"""A tritonserver's command line: what it serves where, and what is locked for whom.

Whoever may load a model into a Triton can have it run any code, and whoever may register shared memory can read it. So
all but inference and reading is locked on gRPC, for everybody. Models are loaded and unloaded over a Unix socket in a
folder that only the server's own user may enter: over that of HTTP if an agent drives the server, over that of gRPC if
nobody does (`cascade-triton` by hand, and the profiler).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cascade_models.agent.addresses import UNIX, ServerAddress
from cascade_models.agent.installation import LaunchError

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux keeps it, and so Triton
EXIT_TIMEOUT_S: Final = 5
"""How long a server that was told to end waits for inferences in flight, unless told otherwise."""

_NEVER_NEEDED: Final = ("shared-memory", "trace", "logging")
_CONTROL: Final = ("model-repository", "model-config")
_NO_HEADER: Final = "LOCKED"
"""A gRPC header that no client can send: HTTP/2 knows no capital letters in names."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Frontends:
    """Where a server listens beside gRPC (None: nowhere), and how long it takes its leave.

    ``http`` is a Unix socket, for the agent and the probe beside the server. If ``driven``, an agent loads and unloads
    models over it.
    """

    http: Path | None = None
    metrics: ServerAddress | None = None
    exit_timeout_s: int = EXIT_TIMEOUT_S
    driven: bool = False

    def flags(self) -> list[str]:
        """The server's flags."""
        flags = [
            f"--exit-timeout-secs={self.exit_timeout_s}",
            f"--allow-http={'false' if self.http is None else 'true'}",
            f"--allow-metrics={'false' if self.metrics is None else 'true'}",
        ]
        if self.http is not None:
            flags.append(f"--http-address={UNIX}{self.http}")
        if self.metrics is not None:
            flags += [f"--metrics-address={self.metrics.ip}", f"--metrics-port={self.metrics.port}"]
        return flags


def lock_flags(address: ServerAddress, *, driven: bool) -> list[str]:
    """The flags that lock what nobody needs, and what only the server's own user may do.

    If an agent drives the server, models are loaded over the Unix socket of HTTP, and gRPC, where clients come, is
    locked whatever its address.

    Triton locks by a header that must have a value. The value is thrown away here; it also stands on the server's
    command line, which other users of the machine may read, so the header of gRPC is one that cannot be sent.
    """
    grpc = (*_NEVER_NEEDED, *_CONTROL) if driven or address.socket_file is None else _NEVER_NEEDED
    http = (*_NEVER_NEEDED, "model-config") if driven else (*_NEVER_NEEDED, *_CONTROL)
    key = f"{_NO_HEADER}={secrets.token_urlsafe(32)}"
    return [
        f"--grpc-restricted-protocol={','.join(grpc)}:{key}",
        f"--http-restricted-api={','.join(http)}:{key}",
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
        *lock_flags(address, driven=frontends.driven),
        f"--grpc-address={address.ip}",
        f"--grpc-port={address.port}",
        f"--id={replica_id}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(replica_id, address)}",
        *(f"--load-model={model}" for model in models),
    ]


def check_id(replica_id: str) -> None:
    """Raises LaunchError unless it can stand in the names of shared memory."""
    if not _ID.fullmatch(replica_id):
        raise LaunchError(f"--replica-id: {replica_id!r} is not a name: use up to 64 letters, digits, dots, dashes")


def shared_memory_prefix(replica_id: str, address: ServerAddress) -> str:
    """What the names of a server's shared-memory segments begin with: no two servers that run share it."""
    return f"{replica_id}.{address.port}."


def sweep_shared_memory(prefix: str, folder: Path = SHARED_MEMORY) -> int:
    """Removes what a killed server with that prefix left behind; returns the number of segments."""
    left = [file for file in folder.iterdir() if file.name.startswith(prefix)] if folder.is_dir() else []
    for file in left:
        file.unlink(missing_ok=True)
    return len(left)

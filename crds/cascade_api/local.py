"""Where `cascade up` keeps its state on this machine, and how other commands find the cascade that it runs."""

from __future__ import annotations

import os
from pathlib import Path

from .base import Document
from .failures import CommandFailed

ADDRESSES_FILE = "addresses.json"


class Addresses(Document):
    """The addresses of a running `cascade up`; ``redis`` contains the password."""

    grpc: str
    http: str
    redis: str
    pid: int
    manifest: str


def default_state_dir() -> Path:
    """``$XDG_STATE_HOME/diffusion-cascade``, by default below ``~/.local/state``.

    Raises CommandFailed if there is neither, as for the user of a container.
    """
    home = os.environ.get("XDG_STATE_HOME")
    if home:
        return Path(home) / "diffusion-cascade"
    try:
        return Path.home() / ".local" / "state" / "diffusion-cascade"
    except RuntimeError:
        raise CommandFailed(
            "--state-dir: there is no home folder here: name a folder, or set HOME or XDG_STATE_HOME", code=2
        ) from None


def read_addresses(state_dir: Path) -> Addresses | None:
    """The addresses of the local cascade, or None if none was started with ``state_dir``."""
    try:
        return Addresses.model_validate_json((state_dir / ADDRESSES_FILE).read_text())
    except (OSError, ValueError):
        return None


def write_addresses(state_dir: Path, addresses: Addresses) -> None:
    """Replace the addresses atomically."""
    write_private(state_dir / ADDRESSES_FILE, addresses.model_dump_json(by_alias=True))


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically with one that only its owner may read."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)

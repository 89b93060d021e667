"""Where `cascade up` keeps its state on this machine, and how other commands find what it runs."""

from __future__ import annotations

import os
from pathlib import Path

from .base import Document
from .failures import CommandFailed

ADDRESSES_FILE = "addresses.json"


class Addresses(Document):
    """What a running `cascade up` listens on."""

    grpc: str
    http: str
    redis: str
    pid: int
    manifest: str


def default_state_dir() -> Path:
    """``$XDG_STATE_HOME/diffusion-cascade``, by default below ``~/.local/state``.

    Raises CommandFailed where there is neither, as for a container's user.
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
    """Addresses of the local cascade, or None where none was started from ``state_dir``."""
    try:
        return Addresses.model_validate_json((state_dir / ADDRESSES_FILE).read_text())
    except (OSError, ValueError):
        return None


def write_addresses(state_dir: Path, addresses: Addresses) -> None:
    """Replace the addresses atomically."""
    scratch = state_dir / (ADDRESSES_FILE + ".new")
    scratch.write_text(addresses.model_dump_json(by_alias=True))
    scratch.replace(state_dir / ADDRESSES_FILE)

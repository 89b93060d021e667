"""The options of `cascade up`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXAMPLE: Final = Path(__file__).with_name("shapes.yaml")
"""The manifest that is served if none is named."""


@dataclass(frozen=True)
class LocalOptions:
    """The options of a run; if ``redis_url`` is None, the run starts a Redis of its own."""

    manifest: Path
    state_dir: Path
    grpc: str
    http: str
    redis_url: str | None

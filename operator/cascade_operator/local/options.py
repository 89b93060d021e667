"""What `cascade up` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalOptions:
    """The options of a run; ``redis_url`` None: a Redis of our own."""

    manifest: Path
    state_dir: Path
    grpc: str
    http: str
    redis_url: str | None

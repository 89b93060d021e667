"""How many files, and so connections, this process may have open."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

ENOUGH: Final = 1024 * 1024
"""More than a process of ours can use; some systems allow a thousand times as many."""


def raise_file_limit() -> None:
    """Take as many as the system lets this process have; the limit that it starts with is often one for desktops."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if wanted > file_limit():
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower limit beside
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """Files that may be open at a time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft

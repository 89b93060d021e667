"""How many files, and thus connections, this process may have open."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

ENOUGH: Final = 1024 * 1024
"""More than any process of this product uses; some systems allow a thousand times as many."""


def raise_file_limit() -> None:
    """Raise the limit as far as the system allows; a process often starts with a limit made for desktops."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if wanted > file_limit():
        with contextlib.suppress(OSError, ValueError):  # some systems have another, lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """How many files may be open at a time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft

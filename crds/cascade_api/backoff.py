"""How long to wait before something that failed is tried again. Pure."""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.25
LONGEST_S: Final = 4.0


def pause_s(failures: int) -> float:
    """Seconds to wait after this many failures in a row: 0 after none, FIRST_S after one, then doubled each time."""
    return min(LONGEST_S, FIRST_S * 2 ** min(failures - 1, 10)) if failures > 0 else 0.0

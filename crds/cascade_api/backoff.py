"""How long to wait before something that failed is tried again (pure)."""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.25
LONGEST_S: Final = 4.0


def pause_s(failures: int) -> float:
    """Seconds after so many failures in a row: none after none, a quarter after one, then twice as many each time."""
    return min(LONGEST_S, FIRST_S * 2 ** min(failures - 1, 10)) if failures > 0 else 0.0

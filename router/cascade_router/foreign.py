"""Data in Redis that is none of ours: how it shows."""

from __future__ import annotations

from redis.exceptions import ResponseError


def is_foreign(error: BaseException | None) -> bool:
    """Whether Redis refused a command because what the key holds is of another type than ours."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")

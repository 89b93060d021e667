"""Explains why Redis refuses a command: a wrong password, a missing right, or a key of another type."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

_RIGHTS: Final = (
    (
        re.compile(r"access (a|the .*) channel"),
        r"to its channels (`&cascade:{*}:plan-changed`, and `&grants:*` for routers)",
    ),
    (re.compile(r"access (a|the .*) key"), r"to its keys (`~cascades ~cascade:*`)"),
    (re.compile(r"run the '([^']+)' command"), r"to a command (`+\1`)"),
)
"""Patterns of the server's message about a missing right, and the ACL rule that grants the right."""


def is_wrong_type(error: BaseException | None) -> bool:
    """Whether Redis refused a command because the key has a value of another type, which the product did not write."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def why_refused(error: BaseException) -> str | None:
    """What is wrong with the user in the URL of Redis, and the fix; None for any other failure."""
    said = str(error)
    if isinstance(error, AuthenticationError):
        if "HELLO must be called" in said or "Authentication required" in said:
            return "Redis needs a password: put it into the URL, as redis://:PASSWORD@host:6379/0"
        return f"Redis refuses the user name or password in its URL: {said}"
    # If a script lacks a right, Redis reports an ordinary error.
    if isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and "ACL failure" in said):
        missing = f"a right ({said})"
        for pattern, right in _RIGHTS:
            if match := pattern.search(said):
                missing = f"the right {match.expand(right)}"
        return f"the user in the URL of Redis lacks {missing}; docs/install.md lists all rights that are needed"
    return None

"""The exception with which a command ends if its user can fix the cause."""

from __future__ import annotations


class CommandFailed(Exception):
    """A command could not do its work; the message says why and what to do. ``code`` is the exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code

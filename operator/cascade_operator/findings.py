"""The findings of `cascade doctor`: each one says what was checked and, if something is wrong, how to fix it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check; ``problem`` is true if something is wrong, and then ``fix`` says what to do."""

    subject: str
    detail: str
    problem: bool = False
    fix: str = ""

    def __str__(self) -> str:
        mark = "PROBLEM" if self.problem else "ok     "
        fix = f"\n         fix: {self.fix}" if self.fix else ""
        return f"{mark}  {self.subject}: {self.detail}{fix}"

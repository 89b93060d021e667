"""What a doctor found: one thing looked at, and where it is not well the fix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``problem`` and ``fix`` are empty where all is well."""

    subject: str
    detail: str
    problem: bool = False
    fix: str = ""

    def __str__(self) -> str:
        mark = "PROBLEM" if self.problem else "ok     "
        fix = f"\n         fix: {self.fix}" if self.fix else ""
        return f"{mark}  {self.subject}: {self.detail}{fix}"

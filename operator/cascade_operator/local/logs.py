"""The logs of a local run: one file for each process, with a limited size."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Final

import structlog

from .state import StateDir

LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024


def log_to(state: StateDir) -> None:
    """Send the log of this process to a file of the state directory, as JSON lines."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=state.log_file("operator").open("a", buffering=1)),
    )


def keep_logs_bounded(state: StateDir, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Copy every log that is larger than the limit to one old copy, and empty it (its writers append)."""
    for log in state.logs.glob("*.log"):
        if log.stat().st_size > limit_bytes:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def log_tail(file: Path, lines: int = 12) -> str:
    """The last lines of a log, indented for a message; empty if there is no log."""
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

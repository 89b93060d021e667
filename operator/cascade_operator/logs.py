"""Structured logs of the operator: one JSON object a line on standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def set_up() -> None:
    """Configure structlog for this process; warnings of libraries are logged in the same form."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    renderer = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler.setFormatter(renderer)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Every watch would log at every try that the API server is away; the operator logs it once.
    logging.getLogger("kopf._cogs.clients").setLevel(logging.ERROR)

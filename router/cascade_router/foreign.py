"""Data in Redis that the product did not write: how it is recognised and reported."""

from __future__ import annotations

import structlog
from redis.exceptions import ResponseError

from cascade_api.bad_data import BadData, owner_and_kind

from . import metrics

log = structlog.get_logger(__name__)


def is_foreign(error: BaseException | None) -> bool:
    """Whether Redis refused a command because the key holds another type of data."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def bad_data() -> BadData:
    """The object that logs and counts the bad data that this router finds."""

    def tell(key: str, why: str) -> None:
        log.error("bad data in redis is left out", key=key, why=why)

    return BadData(tell=tell, count=lambda key: metrics.BAD_DATA.labels(*owner_and_kind(key)).inc())

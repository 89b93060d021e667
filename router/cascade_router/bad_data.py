"""Reports data in Redis that the product did not write."""

from __future__ import annotations

import structlog

from cascade_api.bad_data import BadData, owner_and_kind

from . import metrics

log = structlog.get_logger(__name__)


def bad_data() -> BadData:
    """The object that logs and counts the bad data that this router finds."""

    def tell(key: str, why: str) -> None:
        log.error("bad data in redis is left out", key=key, why=why)

    return BadData(tell=tell, count=lambda key: metrics.BAD_DATA.labels(*owner_and_kind(key)).inc())

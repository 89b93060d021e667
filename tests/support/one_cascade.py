"""Parts of a router's service for tests: plans of one cascade, and tenants that are everybody."""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from cascade_router.bad_data import bad_data
from cascade_router.plans import Plans
from cascade_router.rates import SharedRates
from cascade_router.runtime import CascadeRuntime
from cascade_router.tenants import Tenants

from .ports import free_port


class OneCascade(Plans):
    """The plans of a router that serves one cascade."""

    def __init__(self, runtime: CascadeRuntime) -> None:
        super().__init__(
            redis=Redis(port=free_port()), make_runtime=_none_is_made, bad_data=bad_data(), clock=runtime.clock
        )
        self.runtime = runtime

    @property
    def by_name(self) -> dict[str, CascadeRuntime]:
        return {"shapes": self.runtime}

    def find(self, model: str) -> CascadeRuntime:
        return self.runtime


async def _none_is_made(*_: Any) -> CascadeRuntime:
    raise AssertionError


def open_to_all() -> Tenants:
    return Tenants(None, rates=SharedRates(Redis(port=free_port()), clock=time.monotonic), clock=time.monotonic)

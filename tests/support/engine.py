"""The router's engine for tests: a runtime whose queue is in memory, with replicas that answer as a test says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_router.admission import Admitted
from cascade_router.cascade.events import Arrived, Begun
from cascade_router.cascade.state import Limits
from cascade_router.engine import Passage, ShowPreview, hear
from cascade_router.pools.clients import PIXELS, Prompt
from cascade_router.queue import WorkQueue
from cascade_router.requests import GenerateRequest, MadeImage, Receipt, new_id
from cascade_router.runtime import CascadeRuntime

from .router import EASY
from .scripted_triton import Behaviour, ScriptedTriton

LIMITS: Final = Limits(waiting=10, in_hand=100)


@contextlib.asynccontextmanager
async def cascade(plan: Plan, *, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[CascadeRuntime]:
    """A runtime whose queue is in memory."""
    ref = CascadeRef.parse(plan.cascade)
    queue = WorkQueue(url=None, ref=ref, router_id="router-1", limit=LIMITS.waiting, clock=clock)
    await queue.start()
    runtime = CascadeRuntime(ref=ref, plan=plan, queue=queue, limits=LIMITS, clock=clock, start=0.0)
    await runtime.apply(plan)
    try:
        yield runtime
    finally:
        await runtime.close()


@contextlib.asynccontextmanager
async def replicas(*behaviours: Behaviour) -> AsyncIterator[list[ScriptedTriton]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ScriptedTriton(behaviour)) for behaviour in behaviours]


def endpoints(*servers: ScriptedTriton) -> list[str]:
    return [server.endpoint for server in servers]


async def ask(runtime: CascadeRuntime, *, preview: ShowPreview | None = None, **changes: Any) -> MadeImage:
    """The answer to a request that comes now."""
    passage = Passage(admitted(runtime, **changes), coin=0.5)
    for event in (Arrived(in_hand=1), Begun()):
        hear([passage], event)
    return await passage.answer(preview)


def admitted(runtime: CascadeRuntime, *, within_s: float | None = None, **changes: Any) -> Admitted:
    """A request that a runtime has just admitted; without ``within_s``, its deadline is the objective."""
    receipt = changes.setdefault("receipt", Receipt(at=runtime.clock()))
    request = GenerateRequest(**{"id": new_id(), "model": "shapes", "prompt": Prompt(EASY), "form": PIXELS, **changes})
    return Admitted(runtime, request, receipt.deadline(within_s or runtime.plan.objective_s))

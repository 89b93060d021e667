"""Brings ejected replicas back: a real inference, since a server may say that it is ready and yet fail."""

from __future__ import annotations

import asyncio
from typing import Final

from cascade_api.names import PROBE_PROMPT

from .pools.clients import PIXELS, OutOfTime, Prompt, PromptRejected, ReplicaFailed
from .runtime import CascadeRuntime

PROBE_FACTOR: Final = 4.0
PROBE_EXTRA_S: Final = 10.0
"""Beyond 4 times the planned execution time: the first inference after a load may be a slow one."""


async def probe_due(runtime: CascadeRuntime) -> None:
    """Probe every ejected replica whose pause is over, all at once; those that answer are trusted again."""
    now = runtime.clock()
    due = runtime.state.health.due(now=now)
    if due:
        await asyncio.gather(*(_probe(runtime, replica_id) for replica_id in due))


async def _probe(runtime: CascadeRuntime, replica_id: str) -> None:
    for pool in runtime.plan.pools:
        for replica in pool.ready:
            if replica.id == replica_id:
                try:
                    await runtime.clients.make(
                        endpoint=replica.endpoint,
                        variant=pool.variant,
                        prompt=Prompt(PROBE_PROMPT, seed=0),
                        form=PIXELS,
                        size=(runtime.plan.image.width, runtime.plan.image.height),
                        confidence=False,
                        request_id="probe",
                        timeout_s=PROBE_FACTOR * pool.batch_execution_s(pool.batch) + PROBE_EXTRA_S,
                    )
                except (OutOfTime, ReplicaFailed) as failure:
                    runtime.note(runtime.state.failed(replica_id, str(failure), now=runtime.clock()))
                    return
                except PromptRejected:
                    pass  # it works, although this is not a prompt for it
                runtime.note(runtime.state.works(replica_id))
                return

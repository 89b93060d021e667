"""Brings ejected replicas back, after a real inference: a server may say that it is ready although it fails."""

from __future__ import annotations

import asyncio
from typing import Final

from cascade_api.names import PROBE_PROMPT
from cascade_api.plan import PlanWorker, Pool

from .pools.clients import PIXELS, Prompt, PromptRejected, ReplicaFailed, ReplicaTimedOut
from .runtime import CascadeRuntime

PROBE_FACTOR: Final = 4.0
PROBE_EXTRA_S: Final = 10.0
"""Added to 4 times the planned execution time, since the first inference after a load may be slow."""


async def probe_due(runtime: CascadeRuntime) -> None:
    """Probe all ejected replicas whose pause is over at the same time; those that answer are trusted again."""
    probes = runtime.state.probes(now=runtime.clock())
    if probes:
        await asyncio.gather(*(_probe(runtime, pool, replica) for pool, replica in probes))


async def _probe(runtime: CascadeRuntime, pool: Pool, replica: PlanWorker) -> None:
    try:
        await runtime.clients.make(
            endpoint=replica.endpoint,
            variant=runtime.plan.variants[pool.variant],
            prompt=Prompt(PROBE_PROMPT, seed=0),
            form=PIXELS,
            size=runtime.plan.image,
            confidence=False,
            request_id="probe",
            timeout_s=PROBE_FACTOR * pool.batch_execution_s(pool.batch) + PROBE_EXTRA_S,
        )
    except (ReplicaTimedOut, ReplicaFailed) as failure:
        runtime.note(runtime.state.failed(replica.id, str(failure), now=runtime.clock()))
        return
    except PromptRejected:
        pass  # it works, although this is not a prompt for it
    runtime.note(runtime.state.works(replica.id))

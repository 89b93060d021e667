"""Whether a model really works: by the requests that it has taken, or by requesting an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from cascade_api.worker_requests import Parameters

from .triton import InferenceCounts, TritonError

PROBE_EVERY_S: Final = 2.0
PROBE_TIMEOUT_S: Final = 6.0
"""Longer than the longest batch for which a probe may have to wait."""


class Probed(Protocol):
    """What the check needs from a Triton client."""

    async def counts(self, model: str) -> InferenceCounts: ...

    async def probe(self, model: str, parameters: Parameters, *, timeout_s: float) -> None: ...


class ModelHealth:
    """Evidence that one model works.

    If a python-backend process dies, Triton still says that its model is ready, so only what it does counts. Under load
    it takes one request after the other, and credits bound how many it can hold without an answer. A probe is sent only
    if it took none for a while, or if some inference failed.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: InferenceCounts | None = None
        self._evidence_s = clock()

    async def complaint(self, client: Probed, model: str, parameters: Parameters) -> str | None:
        """Look once; None while all is well, else what is wrong with the model. ``parameters`` are the settings.

        Raises TritonError if the server itself does not answer.
        """
        counts = await client.counts(model)
        known, self._known = self._known or counts, counts
        if counts.failed == known.failed:
            if counts.succeeded > known.succeeded:
                self._evidence_s = self._clock()
            if self._clock() - self._evidence_s < PROBE_EVERY_S:
                return None
        return await self._ask(client, model, parameters, counts)

    async def _ask(self, client: Probed, model: str, parameters: Parameters, before: InferenceCounts) -> str | None:
        complaint = None
        try:
            await client.probe(model, parameters, timeout_s=PROBE_TIMEOUT_S)
        except TritonError as error:
            complaint = str(error)
        # The probe itself must not count as an answer at the next check.
        self._known = await client.counts(model)
        if complaint is not None:
            # The probe itself may have been taken.
            behind = complaint.startswith("DEADLINE_EXCEEDED") and self._known.succeeded > before.succeeded + 1
            if not behind:
                return complaint
        self._evidence_s = self._clock()
        return None

"""Whether a model really works: by the requests that it has taken, or by requesting an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from cascade_models.agent.triton_http import InferenceCounts, Parameters, TritonError, TritonSilent

PROBE_EVERY_S: Final = 2.0
"""A model that answers nobody for so long is asked for an image, unless an image takes long."""
PROBE_TIMEOUT_S: Final = 6.0
"""A probe may have to wait for the batch in hand; a model whose images take long is given more."""
PATIENCE: Final = 4.0
"""A probe may take as many times as long as a batch would take of images like the first one, if that is longer."""
REST: Final = 20.0
"""An idle model rests this many times as long as an image takes, if that is longer."""


class Probed(Protocol):
    """What the check needs from a client of Triton."""

    async def counts(self, model: str) -> InferenceCounts: ...

    async def draw(self, model: str, parameters: Parameters, *, timeout_s: float) -> None: ...


class ModelHealth:
    """Evidence that one model works.

    If a python-backend process dies, Triton still says that its model is ready, so only what it does counts. Under load
    it takes one request after the other, and credits bound how many it can hold without an answer. A probe is sent only
    if it took none for a while, or if some inference failed.
    """

    def __init__(self, *, image_s: float = 0.0, batch: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """``image_s`` is how long its first image took, ``batch`` the most images that it makes at once."""
        self._clock = clock
        self._known: InferenceCounts | None = None
        self._evidence_s = clock()
        self._every_s = max(PROBE_EVERY_S, REST * image_s)
        self._timeout_s = max(PROBE_TIMEOUT_S, PATIENCE * batch * image_s)

    async def complaint(self, client: Probed, model: str, parameters: Parameters) -> str | None:
        """Look once; None while all is well, else what is wrong with the model. ``parameters`` are the settings.

        Raises TritonSilent if the server itself does not answer.
        """
        try:
            counts = await client.counts(model)
        except TritonSilent:
            # If the machine stood still, only one call is late; a server that hangs does not answer the second one.
            counts = await client.counts(model)
        known, self._known = self._known or counts, counts
        if counts.failed == known.failed:
            if counts.succeeded > known.succeeded:
                self._evidence_s = self._clock()
            if self._clock() - self._evidence_s < self._every_s:
                return None
        return await self._ask(client, model, parameters, counts)

    async def _ask(self, client: Probed, model: str, parameters: Parameters, before: InferenceCounts) -> str | None:
        complaint: TritonError | None = None
        try:
            await client.draw(model, parameters, timeout_s=self._timeout_s)
        except TritonError as error:
            complaint = error
        # The probe itself must not count as an answer at the next check.
        self._known = await client.counts(model)
        if complaint is not None:
            # The probe itself may have been taken.
            behind = isinstance(complaint, TritonSilent) and self._known.succeeded > before.succeeded + 1
            if not behind:
                return str(complaint)
        self._evidence_s = self._clock()
        return None

"""Clients of a real Triton that are cancelled, late or left behind by chance."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import tritonclient.grpc as triton

from .triton import ONE_IMAGE, TritonServer, inference
from .waiting import wait_for

IN_FLIGHT = 24
OUTPUTS = (["image"], ["image_encoded"], ["image_encoded", "confidence"], ["confidence"], ["image", "image_encoded"])
PARAMETERS: tuple[dict[str, Any], ...] = (
    {},
    {"image_format": "png"},
    {"image_format": "jpeg", "image_quality": 50},
    {"image_format": "webp"},
    {"image_format": "wrong"},
    {"steps": 2},
    {"steps": 8, "image_format": "webp"},
    {"steps": 8, "guidance": "1.5"},
    {"steps": 40},
)
"""Of several settings, some of which overtake others."""


class ImpatientClients:
    """Several connections to one model, whose requests are cancelled, late or left behind by chance."""

    def __init__(self, server: TritonServer, model: str, *, seed: int) -> None:
        self.asked = 0
        self.ended: Counter[str] = Counter()
        self._server, self._model = server, model
        self._chance = random.Random(seed)
        self._room = threading.Semaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._connections = [self._connect() for _ in range(4)]

    def ask(self) -> None:
        """One more request, as soon as there are few enough."""
        self._room.acquire()
        chance, at = self._chance, self._chance.randrange(len(self._connections))
        request = inference([ONE_IMAGE] * chance.choice([1, 1, 1, 2]))
        request["outputs"] = [triton.InferRequestedOutput(name) for name in chance.choice(OUTPUTS)]
        fate = chance.choice(["patient", "cancelled", "late", "left"])
        within_s = chance.uniform(0.001, 0.2) if fate == "late" else None
        call = self._connections[at].async_infer(
            self._model, callback=self._end, parameters=chance.choice(PARAMETERS), client_timeout=within_s, **request
        )
        self.asked += 1
        if fate == "cancelled":
            threading.Timer(chance.uniform(0, 0.15), call.cancel).start()
        if fate == "left" and chance.random() < 0.1:
            left, self._connections[at] = self._connections[at], self._connect()
            threading.Timer(chance.uniform(0, 0.1), left.close).start()

    def _end(self, result: Any, error: Any) -> None:
        with self._lock:
            self.ended["made" if error is None else str(error.status())] += 1
        self._room.release()

    def _connect(self) -> triton.InferenceServerClient:
        # Otherwise clients in one process share a connection, which is not cut when one of them leaves.
        return triton.InferenceServerClient(self._server.endpoint, channel_args=[("grpc.use_local_subchannel_pool", 1)])

    def wait(self) -> None:
        """Until every request has ended."""
        wait_for(lambda: sum(self.ended.values()) == self.asked, what="every request to end")

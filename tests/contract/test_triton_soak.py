"""A minute of impatient clients of a real Triton: all requests end, and neither server nor model is restarted."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import pytest
import tritonclient.grpc as triton

from support.processes import runs
from support.triton import ONE_IMAGE, TritonServer, inference
from support.waiting import wait_for

pytestmark = [pytest.mark.contract, pytest.mark.slow]

SOAK_S = 60.0
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
)
"""Of several settings, so that batches are made in several runs, and their answers leave one run after the other."""


class Clients:
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


@pytest.mark.parametrize("model", ["small", "large"])
def test_impatient_clients_end_neither_server_nor_model(painting_triton: TritonServer, model: str) -> None:
    assert painting_triton.process is not None
    stub = painting_triton.stub(model)
    clients = Clients(painting_triton, model, seed=1)
    until = time.monotonic() + SOAK_S / 2
    while time.monotonic() < until and painting_triton.process.poll() is None:
        clients.ask()
    wait_for(lambda: sum(clients.ended.values()) == clients.asked, what="every request to end")
    assert painting_triton.process.poll() is None, painting_triton.log.read_text()[-2000:]
    assert runs(stub), "the model's process is the one that began"
    assert painting_triton.ask(model, [ONE_IMAGE], seeds=[1]).as_numpy("image") is not None
    assert clients.ended["made"] > 0
    assert clients.ended["StatusCode.INVALID_ARGUMENT"] > 0
    assert clients.ended["StatusCode.CANCELLED"] > 0
    assert clients.ended["StatusCode.DEADLINE_EXCEEDED"] > 0

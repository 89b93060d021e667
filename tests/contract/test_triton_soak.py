"""A minute of impatient clients of a real Triton: all requests end, and neither server nor model is restarted."""

from __future__ import annotations

import time

import pytest

from support.impatient import ImpatientClients
from support.processes import runs
from support.triton import ONE_IMAGE, TritonServer

pytestmark = [pytest.mark.contract, pytest.mark.slow]

SOAK_S = 60.0


@pytest.mark.parametrize("model", ["small", "large"])
def test_impatient_clients_end_neither_server_nor_model(painting_triton: TritonServer, model: str) -> None:
    assert painting_triton.process is not None
    stub = painting_triton.stub(model)
    clients = ImpatientClients(painting_triton, model, seed=1)
    until = time.monotonic() + SOAK_S / 2
    while time.monotonic() < until and painting_triton.process.poll() is None:
        clients.ask()
    clients.wait()
    assert painting_triton.process.poll() is None, painting_triton.log.read_text()[-2000:]
    assert runs(stub), "the model's process is the one that began"
    assert painting_triton.ask(model, [ONE_IMAGE], seeds=[1]).as_numpy("image") is not None
    assert clients.ended["made"] > 0
    assert clients.ended["StatusCode.INVALID_ARGUMENT"] > 0
    assert clients.ended["StatusCode.CANCELLED"] > 0
    assert clients.ended["StatusCode.DEADLINE_EXCEEDED"] > 0

"""Several variants of the same weights at once in one model process of a real Triton: who waits for whom."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from support.impatient import ImpatientClients
from support.processes import runs
from support.triton import ONE_IMAGE, TritonServer, inference
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

STRESS_S = 20.0
SHORT, MIDDLE = 4, 60
"""Steps of requests that overtake one of `slow`, which takes 400 (two seconds); the shorter ones overtake both."""


class Requests:
    """Requests in flight to one model of painters, and their answers by the seed that each was given."""

    def __init__(self, server: TritonServer, model: str) -> None:
        self._server, self._model = server, model
        self.ended: queue.Queue[tuple[int, Any]] = queue.Queue()

    def ask(self, seed: int, *, outputs: Sequence[str] = ("image", "batch_time"), **options: Any) -> Any:
        """Send a request; the returned call can be cancelled. ``steps`` and ``client_timeout`` are options."""
        steps = options.pop("steps", None)
        request = inference([ONE_IMAGE], seeds=[seed], parameters=None if steps is None else {"steps": steps})
        request["outputs"] = [triton.InferRequestedOutput(name) for name in outputs]

        # The client calls back by keyword, so the names of these parameters count.
        def answered(result: Any, error: Any) -> None:
            self.ended.put((seed, result if error is None else error))

        return self._server.client.async_infer(self._model, callback=answered, **request, **options)

    def begin(self, seed: int, **options: Any) -> Any:
        """Send a request, and wait until the model has taken it."""
        before = self.taken
        call = self.ask(seed, **options)
        wait_for(lambda: self.taken > before, what="the model to take a request")
        return call

    def end(self) -> tuple[int, Any]:
        """The next that ends: its seed, and the answer or error."""
        return self.ended.get(timeout=PATIENCE_S)

    @property
    def taken(self) -> int:
        """How many requests the model has taken; a server counts them before they are answered."""
        return int(self._server.statistics(self._model).inference_stats.success.count)


def drawn(result: Any, seed: int) -> bool:
    """Whether an answer is the image of a seed."""
    expected = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return bool(np.array_equal(result.as_numpy("image")[0], expected))


def test_short_images_overtake_a_long_one_that_has_begun_and_all_are_as_they_would_be_alone(
    painting_triton: TritonServer,
) -> None:
    requests = Requests(painting_triton, "slow")
    began = time.perf_counter()
    requests.begin(1)
    requests.begin(2, steps=MIDDLE)
    requests.ask(3, steps=SHORT)
    ends = [requests.end() for _ in range(3)]
    took_s = time.perf_counter() - began
    assert [seed for seed, _ in ends] == [3, 2, 1]
    assert all(drawn(result, seed) for seed, result in ends)
    short_s, middle_s, long_s = (float(result.as_numpy("batch_time")[0, 0]) for _, result in ends)
    assert short_s < middle_s < long_s
    assert long_s < took_s - middle_s / 2, "a run is not told the time in which others had their turn"


def test_what_is_hardly_shorter_waits(painting_triton: TritonServer) -> None:
    requests = Requests(painting_triton, "slow")
    requests.begin(1)
    requests.ask(2, steps=101)
    assert [requests.end()[0] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("gone", [1, 2])
def test_one_of_two_runs_is_cancelled_and_the_other_is_made(painting_triton: TritonServer, gone: int) -> None:
    requests = Requests(painting_triton, "slow")
    calls = {1: requests.begin(1), 2: requests.begin(2, steps=MIDDLE)}
    began = time.perf_counter()
    calls[gone].cancel()
    ends = dict(requests.end() for _ in range(2))
    assert "CANCELLED" in str(ends[gone])
    assert drawn(ends[3 - gone], 3 - gone)
    # Another that does not overtake is made when the cancelled one was given up.
    requests.ask(3, steps=101)
    assert drawn(requests.end()[1], 3)
    if gone == 1:
        assert time.perf_counter() - began < 2.0, "the long one would take two seconds"


def test_an_image_that_does_not_fit_into_memory_is_refused_and_the_one_that_it_overtook_is_made(
    painting_triton: TritonServer,
) -> None:
    requests = Requests(painting_triton, "slow")
    requests.begin(1)
    requests.ask(2, steps=13)
    (first, error), (second, result) = requests.end(), requests.end()
    assert (first, second) == (2, 1)
    assert error.status() == "StatusCode.UNAVAILABLE"
    assert "out of memory at batch size 1" in str(error)
    assert drawn(result, 1)
    # There is room for one of them, so from then on none overtakes.
    assert "at most 4 images a run, and 1 runs at a time" in painting_triton.log.read_text()
    requests.begin(1)
    requests.ask(2, steps=SHORT)
    assert [requests.end()[0] for _ in range(2)] == [1, 2]


@contextmanager
def stream(server: TritonServer) -> Iterator[tuple[triton.InferenceServerClient, queue.Queue[tuple[Any, Any]]]]:
    """A client with a stream of its own, and what comes through it."""
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.endpoint) as client:
        client.start_stream(callback=lambda result, error: came.put((result, error)))
        try:
            yield client, came
        finally:
            client.stop_stream()


def test_each_of_two_runs_shows_its_own_previews(painting_triton: TritonServer) -> None:
    images: dict[str, list[np.ndarray]] = {"long": [], "short": []}
    ends: list[str] = []
    with stream(painting_triton) as (client, came):
        for name, steps in (("long", 200), ("short", 40)):
            request = inference([ONE_IMAGE], seeds=[len(name)], confidence=True, parameters={"steps": steps})
            client.async_stream_infer("stream", request_id=name, enable_empty_final_response=True, **request)
        while len(ends) < 2:
            result, error = came.get(timeout=PATIENCE_S)
            assert error is None
            name = result.get_response().id
            images[name].append(result.as_numpy("image")[0])
            if result.get_response().parameters["triton_final_response"].bool_param:
                ends.append(name)
    assert ends == ["short", "long"]
    for name, shown in images.items():
        assert len(shown) == 4, "three previews and the image"
        expected = np.random.default_rng(len(name)).integers(0, 256, (512, 512, 3), np.uint8)
        assert all(np.array_equal(image, expected) for image in shown)


def test_a_model_that_is_killed_with_several_runs_in_hand_is_mended_by_loading_it_anew(
    painting_triton: TritonServer,
) -> None:
    assert painting_triton.process is not None
    requests, stub = Requests(painting_triton, "slow"), painting_triton.stub("slow")
    requests.begin(1, client_timeout=3)
    requests.begin(2, steps=MIDDLE, client_timeout=3)
    stub.kill()
    wait_for(lambda: not runs(stub), what="the model's process to end")
    with pytest.raises(InferenceServerException, match="is not healthy"):
        painting_triton.client.infer("slow", **inference([ONE_IMAGE]), client_timeout=PATIENCE_S)
    # Nobody answers for what it had in hand: whoever asks must not wait for ever.
    assert ["Deadline" in str(requests.end()[1]) for _ in range(2)] == [True, True]
    painting_triton.client.unload_model("slow")
    painting_triton.client.load_model("slow")
    requests.ask(3, steps=SHORT)
    assert drawn(requests.end()[1], 3)
    assert painting_triton.process.poll() is None
    # A model that ended is never accounted for: such a server takes all its time to end.
    painting_triton.process.kill()


def test_requests_of_several_settings_and_impatient_clients_are_all_answered(painting_triton: TritonServer) -> None:
    assert painting_triton.process is not None
    stub = painting_triton.stub("small")
    clients = ImpatientClients(painting_triton, "small", seed=7)
    until = time.monotonic() + STRESS_S
    while time.monotonic() < until and painting_triton.process.poll() is None:
        clients.ask()
    clients.wait()
    assert painting_triton.process.poll() is None, painting_triton.log.read_text()[-2000:]
    assert runs(stub), "the model's process is the one that began"
    assert clients.ended["made"] > 0
    assert clients.ended["StatusCode.CANCELLED"] > 0

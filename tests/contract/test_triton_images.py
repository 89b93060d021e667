"""Images from the Triton model of a variant: raw, as files, as previews; and what happens to a stopped model."""

from __future__ import annotations

import io
import queue
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from support.processes import runs
from support.triton import ONE_IMAGE, TritonServer, inference
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract


def request(*outputs: str, seeds: Sequence[int] = (1,), **parameters: Any) -> dict[str, Any]:
    """A request for an image by seed, with what it wants of it."""
    wanted = [triton.InferRequestedOutput(name) for name in outputs]
    return {
        **inference([ONE_IMAGE] * len(seeds), seeds=seeds),
        "outputs": wanted,
        "parameters": parameters or None,
    }


def ask(server: TritonServer, model: str, *outputs: str, **options: Any) -> triton.InferResult:
    return server.client.infer(model, **request(*outputs, **options), client_timeout=PATIENCE_S)


def files(result: triton.InferResult) -> list[Image.Image]:
    """The files of an answer, one per row."""
    tensor = result.as_numpy("image_encoded")
    assert tensor.shape == (len(tensor), 1)
    return [Image.open(io.BytesIO(file)) for file in tensor[:, 0]]


def in_flight(server: TritonServer, model: str, **options: Any) -> queue.Queue[tuple[Any, Any]]:
    """Where the answer to a request will be, or its error."""
    box: queue.Queue[tuple[Any, Any]] = queue.Queue()
    server.client.async_infer(model, callback=lambda result, error: box.put((result, error)), **options)
    return box


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_request_gets_the_outputs_that_it_names_one_file_per_row(painting_triton: TritonServer, model: str) -> None:
    both = ask(painting_triton, model, "image", "image_encoded", "confidence", "batch_time", seeds=(1, 2))
    pictures, raw = files(both), both.as_numpy("image")
    assert [picture.format for picture in pictures] == ["PNG", "PNG"]
    assert all(np.array_equal(np.asarray(picture), pixels) for picture, pixels in zip(pictures, raw, strict=True))
    assert both.as_numpy("confidence").shape == (2, 1)
    (seconds, images), same = both.as_numpy("batch_time")
    assert (images, *same) == (2, seconds, 2)
    assert 0 < seconds < PATIENCE_S
    for outputs in (["image"], ["image_encoded"], ["confidence"], ["batch_time"]):
        answer = ask(painting_triton, model, *outputs).get_response()
        assert [tensor.name for tensor in answer.outputs] == outputs


def test_parameters_choose_the_form_of_each_request_and_a_wrong_one_hurts_no_other(
    painting_triton: TritonServer,
) -> None:
    asked = [
        {"image_format": "jpeg"},
        {"image_format": "jpeg", "image_quality": 5},
        {"image_format": "webp", "priority_of_mine": "x"},
        {"image_quality": 0},
        {"image_format": "gif"},
    ]
    boxes = [in_flight(painting_triton, "large", **request("image_encoded", **parameters)) for parameters in asked]
    answers = [box.get(timeout=PATIENCE_S) for box in boxes]
    jpeg, coarse, webp = (result for result, error in answers[:3])
    assert [files(result)[0].format for result in (jpeg, coarse, webp)] == ["JPEG", "JPEG", "WEBP"]
    assert len(coarse.as_numpy("image_encoded")[0, 0]) < len(jpeg.as_numpy("image_encoded")[0, 0]) / 3
    assert [error.status() for result, error in answers[3:]] == ["StatusCode.INVALID_ARGUMENT"] * 2
    assert [str(error.message()).partition(":")[0] for result, error in answers[3:]] == [
        "image_quality",
        "image_format",
    ]


def test_a_batch_holds_one_size(painting_triton: TritonServer) -> None:
    sizes = [{}, {"size": "64x32"}, {"size": "32x32"}, {"size": "64x32"}, {"size": "48x48"}]
    boxes = [in_flight(painting_triton, "sized", **request("image", "batch_time", **size)) for size in sizes]
    *answers, (_, refused) = [box.get(timeout=PATIENCE_S) for box in boxes]
    found = [(result.as_numpy("image").shape[1:3], result.as_numpy("batch_time")[0, 1]) for result, _ in answers]
    assert [shape for shape, _ in found] == [(32, 32), (32, 64), (32, 32), (32, 64)]
    assert all(together <= 2 for _, together in found), "of its own size there are two each"
    assert "size: 48x48 is not offered: write one of 32x32, 64x32" in str(refused.message())


def test_the_next_batch_is_made_while_files_of_the_last_one_are(painting_triton: TritonServer) -> None:
    def overtaken() -> bool:
        """Whether a request that came later, and needs no file, was answered before one for four large files."""
        slow = in_flight(painting_triton, "large", **request("image_encoded", seeds=range(4), image_format="webp"))
        ask(painting_triton, "large", "confidence")
        early = slow.empty()
        assert len(files(slow.get(timeout=PATIENCE_S)[0])) == 4
        return early

    # Whoever is held up himself looks too late, and has to try again.
    wait_for(overtaken, what="a batch to be made beside files")


def test_files_that_are_being_made_are_sent_before_a_model_is_unloaded(painting_triton: TritonServer) -> None:
    boxes = [in_flight(painting_triton, "large", **request("image_encoded", seeds=(n,))) for n in range(6)]
    made = boxes[0].get(timeout=PATIENCE_S)
    painting_triton.client.unload_model("large")
    answers = [made, *(box.get(timeout=PATIENCE_S) for box in boxes[1:])]
    assert [error for result, error in answers] == [None] * 6


@pytest.mark.parametrize("output", ["image", "image_encoded"])
def test_previews_are_as_the_image_is_asked_for(painting_triton: TritonServer, output: str) -> None:
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = triton.InferenceServerClient(painting_triton.endpoint)
    client.start_stream(callback=lambda result, error: came.put((result, error)))
    try:
        client.async_stream_infer("stream", **request(output, "confidence"), enable_empty_final_response=True)
        answers = []
        while not answers or answers[-1].as_numpy("confidence") is None:
            result, error = came.get(timeout=PATIENCE_S)
            assert error is None
            answers.append(result)
    finally:
        client.stop_stream()
        client.close()
    assert len(answers) > 1, "previews before the image"
    for answer in answers:
        picture = np.asarray(files(answer)[0]) if output == "image_encoded" else answer.as_numpy("image")[0]
        assert picture.shape == (512, 512, 3)
        assert (answer.as_numpy("image") is None) == (output == "image_encoded")


def test_a_model_that_stood_still_when_a_request_came_ends_and_the_server_lives_on(
    painting_triton: TritonServer,
) -> None:
    assert painting_triton.process is not None
    stub = painting_triton.stub("stream")
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = triton.InferenceServerClient(painting_triton.endpoint)
    client.start_stream(callback=lambda result, error: came.put((result, error)))
    stub.send_signal(signal.SIGSTOP)
    client.async_stream_infer("stream", **request("image"))
    _, error = came.get(timeout=PATIENCE_S)
    client.stop_stream()
    client.close()
    assert "is not healthy" in str(error)
    stub.send_signal(signal.SIGCONT)
    wait_for(lambda: not runs(stub), what="the model's process to end")
    assert ask(painting_triton, "small", "image").as_numpy("image") is not None
    assert painting_triton.process.poll() is None


def test_a_model_that_stood_still_at_work_ends_and_is_mended_by_loading_it_anew(
    painting_triton: TritonServer,
) -> None:
    assert painting_triton.process is not None
    stub = painting_triton.stub("slow")
    taken = painting_triton.statistics("slow").inference_stats.success.count
    box = in_flight(painting_triton, "slow", client_timeout=5, **request("image_encoded"))
    # A request is counted when the model has taken it, and two seconds before its image is made.
    wait_for(
        lambda: painting_triton.statistics("slow").inference_stats.success.count > taken,
        what="the model to take the request",
    )
    stub.send_signal(signal.SIGSTOP)
    wait_for(lambda: not runs(stub), what="the keeper to end the model's process")
    assert "stood still" in painting_triton.log.read_text()
    _, error = box.get(timeout=PATIENCE_S)
    assert "Deadline" in str(error), "nobody answers for what a process had in hand"
    with pytest.raises(InferenceServerException):
        ask(painting_triton, "slow", "image")
    painting_triton.client.unload_model("slow")
    painting_triton.client.load_model("slow")
    assert ask(painting_triton, "slow", "image").as_numpy("image").shape == (1, 32, 32, 3)
    assert painting_triton.process.poll() is None
    # A model that ended is never accounted for: such a server takes all its time to end.
    painting_triton.process.kill()


def test_models_end_with_their_server_though_nobody_has_buried_it(painting_triton: TritonServer) -> None:
    assert painting_triton.process is not None
    stubs = painting_triton.stubs()
    assert len(stubs) == 5
    painting_triton.process.kill()
    wait_for(lambda: not any(map(runs, stubs)), what="the models' processes to end")
    assert psutil.Process(painting_triton.process.pid).status() == psutil.STATUS_ZOMBIE

"""What the Triton model of a variant's weights answers, in a real server."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferRequestedOutput
from tritonclient.utils import InferenceServerException

from cascade_models import pipelines
from cascade_models.recipe import Settings
from cascade_models.repository import recipe_of
from cascade_models.serving.turns import SHORTER
from support.triton import ONE_IMAGE, SHAPES, SLOW, TritonServer, inference, model_of, parameters_of
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

PROMPTS = [ONE_IMAGE, "a large white cross", "a small cyan triangle below a yellow square"]
SEEDS = [7, 123456789, 2**62]


class Answers:
    """Requests in flight at the same time, and their answers in the order of asking."""

    def __init__(self, server: TritonServer, variant: str) -> None:
        self.server, self.variant = server, variant
        self._results: list[queue.Queue[tuple[Any, Any]]] = []

    def ask(self, prompt: str | bytes, **options: Any) -> Any:
        """Send a request; the returned call can be cancelled."""
        box: queue.Queue[tuple[Any, Any]] = queue.Queue()
        request = inference([prompt], **{"parameters": parameters_of(self.variant), **options})
        call = self.server.client.async_infer(
            model_of(self.variant), callback=lambda result, error: box.put((result, error)), **request
        )
        self._results.append(box)
        return call

    def result(self, index: int) -> Any:
        """The answer to a request, or the error that it got."""
        result, error = self._results[index].get(timeout=PATIENCE_S)
        return error if error is not None else result

    def there(self, index: int) -> bool:
        """Whether a request has got its answer."""
        return not self._results[index].empty()


def direct(
    variant: str, prompts: Sequence[str], seeds: Sequence[int], settings: Settings | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and confidences made one by one in this process, with the variant's settings or others."""
    pipeline = pipelines.load(recipe_of([SHAPES[variant]]))
    wanted = settings or SHAPES[variant].settings
    images, confidences = [], []
    for prompt, seed in zip(prompts, seeds, strict=True):
        words = [pipeline.read(prompt, "")]
        images.append(pipeline.generate(words, [seed], wanted, None))
        confidences.append(pipeline.judge(images[-1], words))
    return np.concatenate(images), np.concatenate(confidences)


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def worked_s(server: TritonServer, model: str) -> float:
    """Processor time that a model has used."""
    return float(server.stub(model).cpu_times().user)


BOTH = [InferRequestedOutput(name) for name in ("image", "batch_time")]


def together(result: Any) -> int:
    """How many images were made in the run of an answer's."""
    return int(result.as_numpy("batch_time")[0, 1])


def test_image_and_confidence_come_together(shared_triton: TritonServer) -> None:
    answer = shared_triton.ask("shapes-light", [ONE_IMAGE], seeds=[1], confidence=True)
    assert answer.as_numpy("image").shape == (1, 32, 32, 3)
    assert answer.as_numpy("image").dtype == np.uint8
    assert answer.as_numpy("confidence").shape == (1, 1)
    assert 0 <= answer.as_numpy("confidence")[0, 0] <= 1


def test_confidence_is_left_out_unless_asked_for(shared_triton: TritonServer) -> None:
    answer = shared_triton.ask("shapes-light", [ONE_IMAGE], seeds=[1])
    assert answer.as_numpy("confidence") is None


@pytest.mark.parametrize("variant", ["shapes-light", "shapes-heavy"])
def test_a_seeded_image_is_the_same_alone_in_a_batch_and_outside_the_server(
    shared_triton: TritonServer, variant: str
) -> None:
    images, confidences = direct(variant, PROMPTS, SEEDS)
    batch = shared_triton.ask(variant, PROMPTS, seeds=SEEDS, confidence=True)
    assert levels_apart(batch.as_numpy("image"), images) <= 1
    np.testing.assert_allclose(batch.as_numpy("confidence")[:, 0], confidences, atol=0.02)
    alone = shared_triton.ask(variant, PROMPTS[1:2], seeds=SEEDS[1:2])
    assert levels_apart(alone.as_numpy("image"), images[1:2]) <= 1


def test_without_a_seed_every_image_is_another(shared_triton: TritonServer) -> None:
    images = shared_triton.ask("shapes-light", [ONE_IMAGE] * 2).as_numpy("image")
    assert levels_apart(images[0], images[1]) > 1


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"prompts": [b"a \xff circle"]}, "prompt: not UTF-8"),
        ({"prompts": [""]}, "prompt: "),
        ({"prompts": ["a portrait of a cat"]}, "prompt: did not understand 'portrait'"),
        ({"prompts": [ONE_IMAGE], "negative": ["blurry"]}, "negative_prompt: "),
        ({"prompts": [ONE_IMAGE], "seeds": [-1]}, "seed: -1 is below zero"),
        ({"prompts": [ONE_IMAGE], "parameters": {"steps": 9}}, "steps: a light model takes 1 to 4 steps, not 9"),
        ({"prompts": [ONE_IMAGE], "parameters": {"guidance": "2.0"}}, "guidance: the light weights have theirs"),
    ],
)
def test_a_wrong_request_is_refused_with_the_input_named(
    shared_triton: TritonServer, request_: dict[str, Any], named: str
) -> None:
    with pytest.raises(InferenceServerException, match=named) as refusal:
        shared_triton.ask("shapes-light", **request_)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_requests_that_wait_are_made_together(shared_triton: TritonServer) -> None:
    answers = Answers(shared_triton, "shapes-heavy")
    for seed in range(9):
        answers.ask(ONE_IMAGE, seeds=[seed], outputs=BOTH)
    results = [answers.result(index) for index in range(9)]
    assert max(map(together, results)) > 1
    expected, _ = direct("shapes-heavy", [ONE_IMAGE] * 9, range(9))
    for result, wanted in zip(results, expected, strict=True):
        assert levels_apart(result.as_numpy("image")[0], wanted) <= 1


def test_a_cancelled_image_is_given_up_at_the_next_step(shared_triton: TritonServer) -> None:
    before_s = worked_s(shared_triton, "shapes-slow")
    shared_triton.ask("shapes-slow", [ONE_IMAGE], seeds=[0])
    whole_s = worked_s(shared_triton, "shapes-slow") - before_s
    # It is not short enough to overtake, and begins when the other has ended; it takes a quarter of its time.
    next_one = {"steps": SLOW["steps"] // SHORTER + 1}

    def given_up() -> bool:
        """Whether an image that is cancelled once it was begun, and another, take less than it alone would take."""
        answers = Answers(shared_triton, "shapes-slow")
        before_s = worked_s(shared_triton, "shapes-slow")
        call = answers.ask(ONE_IMAGE, seeds=[0])
        wait_for(lambda: worked_s(shared_triton, "shapes-slow") > before_s + 0.1, what="the model to begin")
        answers.ask(ONE_IMAGE, seeds=[1], parameters=next_one)
        call.cancel()
        answers.result(1)
        cancelled = "CANCELLED" in str(answers.result(0))
        return cancelled and worked_s(shared_triton, "shapes-slow") - before_s < 0.75 * whole_s

    # Whoever is held up himself cancels too late, and has to try again.
    wait_for(given_up, what="an image to be given up")


def test_neither_a_cancelled_nor_a_refused_request_hurts_the_others_of_its_run(shared_triton: TritonServer) -> None:
    assert shared_triton.process is not None
    server, model = psutil.Process(shared_triton.process.pid), "shapes-slow"
    before_s = worked_s(shared_triton, model)
    answers = Answers(shared_triton, model)
    # All come at once to a server that was held. Where the first is begun alone, the others are made after it.
    server.suspend()
    try:
        first = answers.ask(ONE_IMAGE, seeds=[0])
        answers.ask(b"\xff", seeds=[1])
        answers.ask(ONE_IMAGE, seeds=[2], outputs=BOTH)
        third = answers.ask(ONE_IMAGE, seeds=[3])
    finally:
        server.resume()
    wait_for(lambda: worked_s(shared_triton, model) > before_s + 0.1, what="the model to begin")
    first.cancel()
    so_far_s = worked_s(shared_triton, model)
    wait_for(lambda: worked_s(shared_triton, model) > so_far_s + 0.1 or answers.there(2), what="it to go on")
    third.cancel()
    image, last = answers.result(2), answers.result(3)
    assert together(image) > 1
    assert levels_apart(image.as_numpy("image"), direct(model, [ONE_IMAGE], [2])[0]) <= 1
    assert "prompt: not UTF-8" in str(answers.result(1))
    # Made already where it was cancelled too late.
    assert "CANCELLED" in str(last) or levels_apart(last.as_numpy("image"), direct(model, [ONE_IMAGE], [3])[0]) <= 1


def test_variants_of_the_same_weights_are_served_at_once_and_each_gets_its_own_settings(
    shared_triton: TritonServer,
) -> None:
    asked = [Settings(24), Settings(8), Settings(24, 1.0), Settings(8), Settings(24)]

    def made() -> list[Any] | None:
        """The answers where those of the same settings were made together; the first may be begun before all came."""
        answers = Answers(shared_triton, "shapes-heavy")
        for seed, settings in enumerate(asked):
            answers.ask(ONE_IMAGE, seeds=[seed], parameters=settings.parameters(), outputs=BOTH)
        results = [answers.result(index) for index in range(len(asked))]
        return results if [together(result) for result in results] == [2, 2, 1, 2, 2] else None

    results = wait_for(made, what="runs of all that want the same settings")
    for seed, (settings, result) in enumerate(zip(asked, results, strict=True)):
        alone, _ = direct("shapes-heavy", [ONE_IMAGE], [seed], settings)
        assert levels_apart(result.as_numpy("image"), alone) <= 1
    seconds = {settings: result.as_numpy("batch_time")[0, 0] for settings, result in zip(asked, results, strict=True)}
    assert seconds[Settings(8)] < seconds[Settings(24)], "each is told the time of its own run"

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
from support.triton import ONE_IMAGE, SHAPES, TritonServer, inference, model_of, parameters_of
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


def answered(server: TritonServer, model: str) -> int:
    """How many requests a model has finished with, whatever the answer."""
    stats = server.statistics(model).inference_stats
    return int(stats.success.count + stats.fail.count)


def batch_sizes(server: TritonServer, model: str) -> dict[int, int]:
    """How many batches of each size a model has run."""
    return {entry.batch_size: entry.compute_infer.count for entry in server.statistics(model).batch_stats}


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
    together = shared_triton.ask(variant, PROMPTS, seeds=SEEDS, confidence=True)
    assert levels_apart(together.as_numpy("image"), images) <= 1
    np.testing.assert_allclose(together.as_numpy("confidence")[:, 0], confidences, atol=0.02)
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


def test_requests_that_wait_become_one_batch(shared_triton: TritonServer) -> None:
    before = batch_sizes(shared_triton, "shapes-heavy")
    answers = Answers(shared_triton, "shapes-heavy")
    for seed in range(9):
        answers.ask(ONE_IMAGE, seeds=[seed])
    images = [answers.result(index).as_numpy("image")[0] for index in range(9)]

    def batches() -> dict[int, int]:
        return {size: n - before.get(size, 0) for size, n in batch_sizes(shared_triton, "shapes-heavy").items()}

    # An answer leaves before it is counted.
    wait_for(lambda: sum(size * n for size, n in batches().items()) == 9, what="all nine to be counted")
    assert sum(batches().values()) < 9
    expected, _ = direct("shapes-heavy", [ONE_IMAGE] * 9, range(9))
    assert all(levels_apart(image, wanted) <= 1 for image, wanted in zip(images, expected, strict=True))


def test_a_cancelled_image_is_given_up_at_the_next_step(shared_triton: TritonServer) -> None:
    def given_up() -> bool:
        """Whether an image that is cancelled once it was begun takes less than the second that it would take."""
        answers = Answers(shared_triton, "shapes-slow")
        before_s, done = worked_s(shared_triton, "shapes-slow"), answered(shared_triton, "shapes-slow")
        call = answers.ask(ONE_IMAGE, seeds=[0])
        wait_for(lambda: worked_s(shared_triton, "shapes-slow") > before_s + 0.1, what="the model to begin")
        call.cancel()
        wait_for(lambda: answered(shared_triton, "shapes-slow") > done, what="the model to stop")
        cancelled = "CANCELLED" in str(answers.result(0))
        return cancelled and worked_s(shared_triton, "shapes-slow") - before_s < 0.5

    # Whoever is held up himself cancels too late, and has to try again.
    wait_for(given_up, what="an image to be given up")


def test_neither_a_cancelled_nor_a_refused_request_hurts_the_others_of_its_batch(shared_triton: TritonServer) -> None:
    assert shared_triton.process is not None
    server, model = psutil.Process(shared_triton.process.pid), "shapes-slow"
    before, done, before_s = (f(shared_triton, model) for f in (batch_sizes, answered, worked_s))
    answers = Answers(shared_triton, model)
    # All come at once to a server that was held: while it is at work on the first, the others become a batch.
    server.suspend()
    try:
        first = answers.ask(ONE_IMAGE, seeds=[0])
        answers.ask(b"\xff", seeds=[1])
        answers.ask(ONE_IMAGE, seeds=[2])
        third = answers.ask(ONE_IMAGE, seeds=[3])
    finally:
        server.resume()
    wait_for(lambda: worked_s(shared_triton, model) > before_s + 0.1, what="the model to begin")
    first.cancel()
    wait_for(lambda: answered(shared_triton, model) > done, what="the first to be given up")
    so_far_s = worked_s(shared_triton, model)
    wait_for(lambda: worked_s(shared_triton, model) > so_far_s + 0.1 or answers.there(2), what="the batch to begin")
    third.cancel()
    image, last = answers.result(2).as_numpy("image"), answers.result(3)
    assert levels_apart(image, direct(model, [ONE_IMAGE], [2])[0]) <= 1
    assert "prompt: not UTF-8" in str(answers.result(1))
    # Made already where it was cancelled too late.
    assert "CANCELLED" in str(last) or levels_apart(last.as_numpy("image"), direct(model, [ONE_IMAGE], [3])[0]) <= 1

    def shared() -> bool:
        now = batch_sizes(shared_triton, model)
        return any(size > 1 and count > before.get(size, 0) for size, count in now.items())

    # Triton may have taken the first of them for a batch before the others came: two are enough.
    wait_for(shared, what="a batch of several to be counted")


def made_together(server: TritonServer, asked: Sequence[Settings]) -> Answers | None:
    """The answers to requests to the heavy weights that became one batch, seeded by their place; None if they did not.

    All come at once to a server that was held, and are answered in the end.
    """
    before, done = (f(server, "shapes-heavy") for f in (batch_sizes, answered))
    answers = Answers(server, "shapes-heavy")
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    process.suspend()
    try:
        for seed, settings in enumerate(asked):
            outputs = [InferRequestedOutput(name) for name in ("image", "batch_time")]
            answers.ask(ONE_IMAGE, seeds=[seed], parameters=settings.parameters(), outputs=outputs)
    finally:
        process.resume()
    wait_for(lambda: answered(server, "shapes-heavy") == done + len(asked), what="all to be answered")
    size = len(asked)
    return answers if batch_sizes(server, "shapes-heavy").get(size, 0) > before.get(size, 0) else None


def test_variants_of_the_same_weights_share_a_batch_and_each_gets_its_own_settings(shared_triton: TritonServer) -> None:
    asked = [Settings(24), Settings(8), Settings(24, 1.0), Settings(8), Settings(24)]
    # Triton may take the first for a batch before the others have come.
    answers = wait_for(lambda: made_together(shared_triton, asked), what="a batch of all of them")
    results = [answers.result(index) for index in range(len(asked))]
    for seed, (settings, result) in enumerate(zip(asked, results, strict=True)):
        alone, _ = direct("shapes-heavy", [ONE_IMAGE], [seed], settings)
        assert levels_apart(result.as_numpy("image"), alone) <= 1
    told = [result.as_numpy("batch_time")[0] for result in results]
    assert [int(images) for _, images in told] == [2, 2, 1, 2, 2]
    seconds = {settings: float(taken) for settings, (taken, _) in zip(asked, told, strict=True)}
    assert seconds[Settings(8)] < seconds[Settings(24)], "each is told the time of its own run"


def test_who_wants_few_steps_does_not_wait_for_those_who_want_many(shared_triton: TritonServer) -> None:
    server = shared_triton

    def first() -> bool | None:
        """Whether the short one was answered while the long one was still being made; None: not in one batch."""
        before = batch_sizes(server, "shapes-slow")
        answers = Answers(server, "shapes-slow")
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        process.suspend()
        try:
            answers.ask(ONE_IMAGE, seeds=[0])
            answers.ask(ONE_IMAGE, seeds=[1], parameters=Settings(2).parameters())
        finally:
            process.resume()
        answers.result(1)
        waits = not answers.there(0)
        answers.result(0)
        wait_for(lambda: sum(batch_sizes(server, "shapes-slow").values()) > sum(before.values()), what="the batch")
        shared = batch_sizes(server, "shapes-slow").get(2, 0) > before.get(2, 0)
        return waits if shared else None

    assert wait_for(lambda: (found := first()) is not None and [found], what="a batch of both") == [True]

"""A StableDiffusionPipeline with random weights, from a hub into a real Triton, run by torch and by ONNX Runtime."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from tritonclient.utils import InferenceServerException

from cascade_models import manifest, repository, weights
from cascade_models.serving.turns import SHORTER
from support.hub import COMMIT, serving
from support.resources import cascade_document
from support.tiny_model import ENVIRONMENT, LOADING_S
from support.triton import TritonServer, inference
from support.waiting import PATIENCE_S, wait_for

CASCADE = Path(sys.executable).parent / "cascade"
STEPS = 20
TORCH, ONNX = "tiny-torch", "tiny-onnx"
PROMPTS = ["a red circle", "two blue squares on a table", "x"]
SEEDS = [7, 123456789, 2**62]

pytestmark = pytest.mark.contract


def manifest_of(tiny: Path, *, source: str = "hf://tests/tiny", **changes: Any) -> str:
    """The same model twice, once for each engine."""
    document = cascade_document()
    model = {"source": source, "revision": COMMIT, **changes}
    document["spec"]["sizes"] = ["32x32"]
    document["spec"]["variants"] = [
        {"name": name, "model": model, "settings": {"steps": STEPS}, "engine": engine}
        for name, engine in ((TORCH, "diffusers"), (ONNX, "onnxruntime"))
    ]
    document["spec"]["discriminator"] = {"source": f"file://{tiny / 'judge'}"}
    return yaml.safe_dump(document)


@pytest.fixture(scope="session")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One server with both; that on ONNX Runtime answers in streams, with previews."""
    folder = tmp_path_factory.mktemp("diffusion")
    (folder / "models").mkdir()
    models = {v.name: repository.recipe_of([v]) for v in manifest.read_variants(manifest_of(tiny))}
    repository.render(models, folder / "models")
    streaming = repository.config(ONNX, models[ONNX], previews=True)
    (folder / "models" / ONNX / "config.pbtxt").write_text(streaming)
    with pytest.MonkeyPatch.context() as patch, serving({"tests/tiny": tiny / "model"}) as hub:
        for name, value in hub.environment.items():
            patch.setenv(name, value)
        patch.setenv("HF_HOME", str(folder / "cache"))
        running = TritonServer(folder / "models", folder, load=(TORCH, ONNX), replica_id="test-diffusion")
        try:
            yield running.start("--triton-env", str(ENVIRONMENT), within_s=LOADING_S)
        finally:
            running.stop()


def stream(
    server: TritonServer, prompt: str, seed: int, parameters: dict[str, int | str] | None = None
) -> list[np.ndarray]:
    """All images of one request to the streaming model, the final one last."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    server.client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        request = inference([prompt], seeds=[seed], parameters=parameters)
        server.client.async_stream_infer(ONNX, enable_empty_final_response=True, **request)
        images = []
        while True:
            result, error = answers.get(timeout=PATIENCE_S)
            assert error is None, error
            images.append(result.as_numpy("image")[0])
            if result.get_response().parameters["triton_final_response"].bool_param:
                return images
    finally:
        server.client.stop_stream()


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_a_seeded_image_is_the_same_alone_and_in_a_batch_and_is_judged(server: TritonServer) -> None:
    together = server.ask(TORCH, PROMPTS, seeds=SEEDS, confidence=True)
    images = together.as_numpy("image")
    assert images.shape == (3, 32, 32, 3)
    assert images.std() > 1
    assert levels_apart(images[0], images[1]) > 8
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = server.ask(TORCH, [prompt], seeds=[seed]).as_numpy("image")
        assert levels_apart(alone[0], images[index]) <= 1
    brightness = images.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(together.as_numpy("confidence")[:, 0], brightness, atol=0.01)


def test_onnxruntime_draws_what_torch_draws_and_shows_previews(server: TritonServer) -> None:
    wanted = server.ask(TORCH, PROMPTS[:1], seeds=SEEDS[:1]).as_numpy("image")[0]
    *previews, final = stream(server, PROMPTS[0], SEEDS[0])
    assert levels_apart(final, wanted) <= 2
    assert len(previews) == 3
    far = [np.abs(preview.astype(int) - final).mean() for preview in previews]
    assert far == sorted(far, reverse=True), "previews come closer"
    assert far[-1] < 16


def test_a_prompt_is_cut_where_the_tokenizer_ends_and_the_model_says_so(server: TritonServer) -> None:
    """The tokenizer reads 32 tokens, of which two are the ends; each letter is one."""
    request = inference(["abcd", "a " * 50], seeds=[1, 2])
    request["outputs"] = [triton.InferRequestedOutput(name) for name in ("image", "prompt_tokens")]
    told = server.client.infer(TORCH, **request)
    assert told.as_numpy("prompt_tokens").tolist() == [[6, 6], [52, 32]]
    cut = server.ask(TORCH, ["a " * 50, "a " * 49 + "b"], seeds=[3, 3]).as_numpy("image")
    assert levels_apart(cut[0], cut[1]) <= 1, "what is cut has no effect"


def test_a_negative_prompt_changes_the_image(server: TritonServer) -> None:
    plain, pushed = (
        server.ask(TORCH, ["a"], seeds=[1], negative=[negative]).as_numpy("image") for negative in ("", "dark, blurry")
    )
    assert levels_apart(plain, pushed) > 0


@pytest.mark.parametrize("model", [TORCH, ONNX])
def test_each_request_of_a_batch_is_drawn_by_its_own_settings(server: TritonServer, model: str) -> None:
    """The last is that of a variant without guidance, whose denoiser is called for half as many images."""
    asked: list[dict[str, int | str]] = [{}, {"steps": 5}, {"steps": 5, "guidance": "3.0"}, {"guidance": "1.0"}]

    def draw(parameters: dict[str, int | str]) -> np.ndarray:
        if model == ONNX:
            return stream(server, PROMPTS[0], SEEDS[0], parameters)[-1]
        return server.ask(TORCH, PROMPTS[:1], seeds=SEEDS[:1], parameters=parameters).as_numpy("image")[0]

    alone = [draw(parameters) for parameters in asked]
    for index, one in enumerate(alone):
        assert all(levels_apart(one, other) > 1 for other in alone[:index])
    assert levels_apart(draw({"steps": STEPS, "guidance": "7.5"}), alone[0]) <= 1, "the model's own"
    if model == TORCH:
        with ThreadPoolExecutor(len(asked)) as pool:
            together = list(pool.map(draw, asked))
        assert all(levels_apart(*pair) <= 1 for pair in zip(alone, together, strict=True))


def test_a_short_image_overtakes_a_long_one_and_both_are_what_they_are_alone(server: TritonServer) -> None:
    long, short = {"steps": 200}, {"steps": 10, "guidance": "1.0"}

    def draw(parameters: dict[str, Any]) -> tuple[np.ndarray, float]:
        image = server.ask(TORCH, PROMPTS[:1], seeds=SEEDS[:1], parameters=parameters).as_numpy("image")[0]
        return image, time.perf_counter()

    alone = [draw(parameters)[0] for parameters in (long, short)]
    taken = server.statistics(TORCH).inference_stats.success.count
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(draw, long)
        wait_for(
            lambda: server.statistics(TORCH).inference_stats.success.count > taken,
            what="the model to take the long one",
        )
        second = pool.submit(draw, short)
    assert second.result()[1] < first.result()[1]
    for asked, image in zip((first, second), alone, strict=True):
        assert levels_apart(asked.result()[0], image) <= 1


def test_a_cancelled_batch_stops_before_its_next_step(server: TritonServer) -> None:
    stub = server.stub(TORCH)
    began_s = stub.cpu_times().user
    server.ask(TORCH, ["a"] * 8, seeds=range(8))
    whole_s = stub.cpu_times().user - began_s

    def given_up() -> bool:
        """Whether a batch that is cancelled once it was begun, and a small one after it, take less than a whole one."""
        began_s = stub.cpu_times().user
        box: queue.Queue[Any] = queue.Queue()
        call = server.client.async_infer(
            TORCH, callback=lambda result, error: box.put(error), **inference(["a"] * 8, seeds=range(8))
        )
        wait_for(lambda: stub.cpu_times().user > began_s + whole_s / 10, what="the batch to begin")
        call.cancel()
        # Too long to overtake: it is made when the other has ended.
        server.ask(TORCH, ["a"], seeds=[0], parameters={"steps": STEPS // SHORTER + 1})
        return "CANCELLED" in str(box.get(timeout=PATIENCE_S)) and stub.cpu_times().user - began_s < whole_s * 0.9

    # Whoever is held up himself cancels too late, and has to try again.
    wait_for(given_up, what="a batch to be given up", within_s=LOADING_S)


def test_a_wrong_request_is_refused_by_name(server: TritonServer) -> None:
    for request, said in (({"prompts": [" "]}, "prompt: is empty"), ({"prompts": ["a"], "seeds": [-1]}, "seed: -1")):
        with pytest.raises(InferenceServerException, match=said) as refusal:
            server.ask(TORCH, **request)
        assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_engines_are_built_beforehand_by_a_command(tiny: Path, tmp_path: Path) -> None:
    document = manifest_of(tiny, source=f"file://{tiny / 'model'}", revision=weights.revision_of(tiny / "model"))
    (tmp_path / "cascade.yaml").write_text(document)
    done = subprocess.run(
        [CASCADE, "model-repo", "export", "-f", tmp_path / "cascade.yaml"],
        check=False, capture_output=True, text=True, timeout=LOADING_S,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "CASCADE_TRITON_ENV": str(ENVIRONMENT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"file://{tiny / 'model'}: engine onnxruntime is ready" in done.stdout
    (built,) = (tmp_path / "cache" / "cascade" / "engines").iterdir()
    assert {file.name for file in built.iterdir()} == {"model.onnx", "made-of.json"}

"""LoRA adapters with random weights: they draw what they should, do not mix, and leave nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tritonclient.utils import InferenceServerException

from cascade_models import catalogue, manifest, repository, weights
from cascade_models.recipe import Recipe
from support.resources import cascade_document
from support.tiny_model import ENVIRONMENT, LOADING_S, run_there
from support.triton import TritonServer
from support.waiting import wait_for

WHOLE = "StableDiffusionPipeline"
OTHERS = sorted({entry.assembly.pipeline for entry in catalogue.entries().values()} - {WHOLE})
CANNOT = "AdapterError: lora: the adapter cannot be used: "
SAID = {
    "another network": CANNOT + ".* does not fit the networks: they have a place for 0 of its [0-9]+ numbers",
    "several files": CANNOT + r".* has 2 safetensors files \(a.safetensors, b.safetensors\): name one in weightName",
    "cut off": CANNOT + ".*cut.safetensors is corrupt .*",
    "revision": CANNOT + ".* has revision [0-9a-f]{64}, not 0{64}: write that revision instead",
    "no folder": CANNOT + "file:///none has no file a.safetensors: correct weightName.*",
    "unknown": "AdapterError: lora: the adapter is not here yet; ask again in a moment",
}

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "cache"))
        yield json.loads(run_there("adapters_served.py", folder, WHOLE, *OTHERS).splitlines()[-1])


@pytest.mark.parametrize("name", [WHOLE, *OTHERS])
def test_adapters_in_turn_and_at_once_do_not_mix_and_without_one_the_image_is_as_before(
    drawn: dict[str, Any], name: str
) -> None:
    found = drawn["effects"][name]
    assert found.pop("effect") > 2
    assert found == dict.fromkeys(("again", "overtaken", "overtaking", "plain again"), 0)


def test_what_is_loaded_is_bounded_and_what_is_unloaded_is_gone(drawn: dict[str, Any]) -> None:
    found = drawn["bounds"]
    size, really = found["size"]
    assert size == really > 0
    assert found["one at a time"] == [True, size]
    assert re.search("needs 1 MiB, and adapters may take 0.0.*: raise adapterMemoryMiB", found["too large"])
    assert found["most"]
    assert found["scaled"] > 0
    assert (found["overtaken though unloaded"], found["plain again"]) == (0, 0)


def test_an_adapter_that_cannot_be_used_is_refused_and_the_others_are_served(drawn: dict[str, Any]) -> None:
    said = dict(drawn["refusals"])
    assert said.pop("images between") == 0
    assert {name for name, text in said.items() if not re.fullmatch(SAID[name], text)} == set()
    assert said.keys() == SAID.keys()


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Two adapters of the tiny model, as a manifest names them."""
    folder = tmp_path_factory.mktemp("adapters")
    run_there("adapters_served.py", folder, "--write", tiny / "model", "ink", "oil")
    return [
        {"name": name, "source": f"file://{folder / name}", "revision": weights.revision_of(folder / name)}
        for name in ("ink", "oil")
    ]


def test_a_running_model_learns_of_an_adapter_and_draws_with_each_as_asked(
    tiny: Path, adapters: list[dict[str, str]], tmp_path: Path
) -> None:
    def model(count: int) -> tuple[str, Recipe]:
        document = cascade_document()
        source = {"source": f"file://{tiny / 'model'}", "revision": weights.revision_of(tiny / "model")}
        variant = {"name": "tiny", "model": source, "settings": {"steps": 8}, "engine": "diffusers"}
        document["spec"] |= {"sizes": ["32x32"], "variants": [{**variant, "adapters": adapters[:count]}]}
        del document["spec"]["discriminator"]
        ((name, recipe),) = repository.models_of(manifest.read_variants(yaml.safe_dump(document))).items()
        return name, recipe

    name, before = model(1)
    _, after = model(2)
    (ink,), (_, oil) = before.adapters, after.adapters
    (tmp_path / "models").mkdir()
    repository.render({name: before}, tmp_path / "models")
    server = TritonServer(tmp_path / "models", tmp_path, load=(name,), replica_id="test-adapters")

    def draw(lora: str) -> np.ndarray:
        parameters = {"lora": lora} if lora else {}
        return server.ask(name, ["a red circle"], seeds=[7], parameters=parameters).as_numpy("image")[0]

    def offered() -> bool:
        try:
            return bool(draw(oil).any())
        except InferenceServerException as refusal:
            if "lora: the adapter is not here yet" not in str(refusal):
                raise
            return False

    try:
        server.start("--triton-env", str(ENVIRONMENT), within_s=LOADING_S)
        assert not offered()
        repository.render({name: after}, tmp_path / "models")
        wait_for(offered, what="the model to learn of the adapter")
        alone = {lora: draw(lora) for lora in ("", ink, oil)}
        assert len({image.tobytes() for image in alone.values()}) == len(alone)
        asked = [*alone] * 6
        with ThreadPoolExecutor(len(asked)) as pool:
            for lora, image in zip(asked, pool.map(draw, asked), strict=True):
                assert np.abs(image.astype(int) - alone[lora]).max() <= 2
    finally:
        server.stop()

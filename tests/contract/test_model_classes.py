"""Each pipeline class of the catalogue is served with random weights, in one process of the environment that serves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cascade_models import catalogue
from cascade_models.shapes import assets
from support.tiny_model import run_there

UNGUIDED = {"Flux2KleinPipeline"}
"""Distilled so that guidance has no effect."""

CACHING = {entry.assembly.pipeline for entry in catalogue.entries().values() if entry.step_caches}
FAITHFUL = "first-block:0.001"
"""A step cache that hardly reuses anything."""

pytestmark = pytest.mark.contract


def classes(*, exported: bool = False) -> set[str]:
    return {
        entry.assembly.pipeline
        for entry in catalogue.entries().values()
        if not exported or "onnxruntime" in entry.engines
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("classes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "cache"))
        said = run_there("pipelines_served.py", folder, *sorted(classes()))
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", sorted(classes()))
def test_an_image_is_the_same_alone_in_a_batch_and_beside_another_run(served: dict[str, Any], name: str) -> None:
    result = served[name]
    assert result["deviation"] > 1
    assert result["between seeds"] > 8
    assert max(result["alone"], result["watched"], result["overtaking"]) <= 2


@pytest.mark.parametrize("name", sorted(classes()))
def test_guidance_changes_the_image_unless_the_model_has_none(served: dict[str, Any], name: str) -> None:
    assert (served[name]["guided"] > 0) == (name not in UNGUIDED)


@pytest.mark.parametrize("name", sorted(classes()))
def test_previews_come_closer_to_the_image(served: dict[str, Any], name: str) -> None:
    previews = served[name]["previews"]
    assert previews
    assert previews == sorted(previews, reverse=True)
    assert previews[-1] < 40


@pytest.mark.parametrize("name", sorted(classes()))
def test_step_caches_work_for_the_classes_that_the_catalogue_says(served: dict[str, Any], name: str) -> None:
    (kinds,) = {entry.step_caches for entry in catalogue.entries().values() if entry.assembly.pipeline == name}
    for cache, result in served[name]["step caches"].items():
        assert isinstance(result, str) == (cache.partition(":")[0] not in kinds), result
        if isinstance(result, str):
            assert result.startswith("stepCache: ")


@pytest.mark.parametrize("name", sorted(CACHING))
def test_a_step_cache_changes_its_own_runs_alone_and_a_little(served: dict[str, Any], name: str) -> None:
    for cache, result in served[name]["step caches"].items():
        if isinstance(result, str):
            continue
        assert result["mean"] < 8, cache
        assert (result["largest"] > 0) == (cache != FAITHFUL), cache
        assert max(result["again"], result["overtaken"], result["cached beside"], result["plain beside"]) <= 1, cache


@pytest.mark.parametrize("name", sorted(classes()))
def test_int8_changes_an_image_a_little(served: dict[str, Any], name: str) -> None:
    found = served[name]["int8"]
    assert set(found) == {"diffusers"} | ({"onnxruntime"} if name in classes(exported=True) else set())
    assert all(0 < mean < 4 for mean in found.values()), found


def test_the_int8_files_of_the_shapes_models_are_made_of_the_others(tmp_path: Path) -> None:
    made = Path(shutil.copytree(assets.WEIGHTS, tmp_path / "weights"))
    names = [assets.path(model, assets.QUANTISED).name for model in ("heavy", "light")]
    for name in names:
        (made / name).unlink()
    run_there("quantised_shapes.py", made)
    for name in names:
        assert (made / name).read_bytes() == (assets.WEIGHTS / name).read_bytes(), name
    assert assets.verify(made).digests == assets.metadata().digests


@pytest.mark.parametrize("name", sorted(classes(exported=True)))
def test_onnx_runtime_draws_what_torch_draws(served: dict[str, Any], name: str) -> None:
    assert served[name]["exported"] <= 2

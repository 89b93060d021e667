"""`cascade profile` and its parts against a real Triton."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cascade_api.command import CommandFailed
from cascade_models import manifest, repository
from cascade_models.manifest import ManifestVariant
from cascade_models.recipe import Recipe
from cascade_profiler.measure import execution, quality
from cascade_profiler.measure.metrics import SHAPES_SIZE, make_judges
from cascade_profiler.measure.places import find_place
from cascade_profiler.measure.progress import Progress
from cascade_profiler.measure.records import Records
from cascade_profiler.measure.replica import MeasuredReplica
from cascade_profiler.measure.workload import sample_workload
from support.triton import shapes_manifest
from support.waiting import wait_for

pytestmark = pytest.mark.contract


@pytest.fixture
def light() -> ManifestVariant:
    return manifest.read_variants(shapes_manifest())[0]


def test_a_timed_batch_is_formed_by_the_server_from_single_requests(light: ManifestVariant, tmp_path: Path) -> None:
    workload = sample_workload(8, 0)
    recipe = dataclasses.replace(repository.recipe_of([light]), batch=4)
    execution.render_measured({"four": recipe}, tmp_path / "models")

    def timed(replica: MeasuredReplica, *, batch: int, count: int) -> list[float] | None:
        return replica.time_batches("four", light.settings, workload, batch=batch, count=count, confidence=True)

    with MeasuredReplica(tmp_path / "models", core=max(os.sched_getaffinity(0)), load=["four"]) as replica:
        # Whoever sends the requests with a pause gets other batches, and tries again.
        taken = wait_for(
            lambda: timed(replica, batch=4, count=5),
            what="six batches of four in a row",
        )
        assert len(taken) == 5
        assert all(seconds > 0 for seconds in taken)
        # This model never runs five at once, so there is nothing to be timed.
        assert timed(replica, batch=5, count=1) is None


def draw(variant: ManifestVariant, folder: Path, *, cores: int | None = None) -> quality.Judged:
    workload = sample_workload(11, 3)
    here = find_place("cpu")
    with Records(folder / "measured") as records:
        drawing = quality.Drawing(
            workload,
            make_judges([], workload, size=SHAPES_SIZE, reference=None),
            directory=folder / "models",
            place=dataclasses.replace(here, cores=here.cores[:cores]),
            records=records,
            progress=Progress({}),
        )
        return drawing.measure([dataclasses.replace(variant, batch=2)])[variant.name]


def test_images_are_judged_in_the_order_of_their_prompts(light: ManifestVariant, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    made, alone = draw(light, tmp_path), draw(light, tmp_path / "alone", cores=1)
    for metric, values in made.side.values.items():
        np.testing.assert_array_equal(values, alone.side.values[metric])
    np.testing.assert_allclose(made.confidence, alone.confidence, atol=0.02)
    np.testing.assert_allclose(made.side.features["fd-layout"], alone.side.features["fd-layout"], atol=0.5)
    assert made.shown.shape == (8, 32, 32, 3)


def test_a_model_that_cannot_be_loaded_says_why(light: ManifestVariant, tmp_path: Path) -> None:
    public = dataclasses.replace(
        light, source="hf://tests/tiny", revision="0" * 40, weights="", discriminator="file:///j"
    )
    repository.render(repository.models_of([public]), tmp_path / "models")
    said = "cannot be loaded: diffusers is not installed here, which hf://tests/tiny needs: name an environment"
    with pytest.raises(CommandFailed, match=said), MeasuredReplica(tmp_path / "models", core=None, load=[public.model]):
        pass
    with MeasuredReplica(tmp_path / "models", core=None) as replica, pytest.raises(CommandFailed, match=said):
        replica.load(public.model)


GREEDY = """
from cascade_models.serving.model import TritonPythonModel as Model


class TritonPythonModel(Model):
    def execute(self, requests):
        if len(requests) > 1:
            raise MemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().execute(requests)
"""


def greedy(models: Mapping[str, Recipe], directory: Path) -> None:
    """A repository whose models run out of memory at batch 2."""
    execution.render_measured(models, directory)
    for model in directory.glob("*/1/model.py"):
        model.write_text(GREEDY)


def test_memory_that_runs_out_is_a_limit_and_goes_on_record(light: ManifestVariant, tmp_path: Path) -> None:
    said: list[str] = []

    def rows(render: execution.Render) -> list[int]:
        with Records(tmp_path / "measured") as records:
            timing = execution.ExecutionMeasurement(
                execution.Task([light], (1, 2, 4), judged=light.name, seconds=0.1),
                sample_workload(8, 0),
                place=find_place("cpu"),
                directory=tmp_path / "models",
                records=records,
                progress=Progress({}, write=said.append),
                render=render,
            )
            return [row.batch for row in timing.measure()[0]]

    assert rows(greedy) == [1]
    assert any("batch 2 is out of memory" in line and "CUDA" in line for line in said)

    def never(models: Mapping[str, Recipe], directory: Path) -> None:
        raise AssertionError("nothing is left to be measured")

    assert rows(never) == [1]

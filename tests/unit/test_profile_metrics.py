"""The judges of a run, the verdicts of the judge of shapes, and the errors if nothing can judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_api.command import CommandFailed
from cascade_models import manifest
from cascade_models.shapes import render
from cascade_profiler.measure.frechet import Moments, distance
from cascade_profiler.measure.metrics import SHAPES_SIZE, make_judges
from cascade_profiler.measure.metrics.judge import Floats
from cascade_profiler.measure.metrics.shapes import DISTANCE, FEATURES, ShapesJudge
from cascade_profiler.measure.quality import check_size
from cascade_profiler.measure.replica import GeneratedImages
from cascade_profiler.measure.workload import Workload, read_workload, sample_workload
from support.triton import shapes_manifest


@pytest.fixture
def photographs(tmp_path: Path) -> Workload:
    file = tmp_path / "prompts.txt"
    file.write_text("a photograph of a lighthouse\n\na harbour at night\na harbour at night\n")
    return read_workload(file, 10, seed=0)


def test_prompts_of_a_file_are_taken_once_each(photographs: Workload) -> None:
    assert photographs.prompts == ("a photograph of a lighthouse", "a harbour at night")
    assert not photographs.scenes
    assert len(set(photographs.seeds)) == 2


def test_a_file_of_shapes_prompts_can_be_checked(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(sample_workload(5, 0).prompts))
    assert len(read_workload(file, 5, seed=0).scenes) == 5


def test_workloads_differ_where_prompts_or_seeds_do() -> None:
    assert sample_workload(8, 0).identity == sample_workload(8, 0).identity
    assert len({sample_workload(8, 0).identity, sample_workload(9, 0).identity, sample_workload(8, 1).identity}) == 3


def test_true_images_are_right_and_near_and_others_are_not() -> None:
    workload = sample_workload(120, 0)
    judge = ShapesJudge()
    true = render.to_uint8(render.render(workload.scenes, np.random.default_rng(1)))
    verdicts, shuffled = judge.judge(true, workload, 0), judge.judge(true[::-1], workload, 0)
    assert verdicts.values["strict"].mean() == 1.0
    assert shuffled.values["strict"].mean() < 0.2
    assert verdicts.features[DISTANCE].shape == (120, FEATURES)
    grey = judge.judge(np.full_like(true, 90), workload, 0)

    def apart(features: Floats) -> float:
        return float(distance(Moments.of(features), Moments.of(judge.reference(workload)[DISTANCE])))

    assert apart(verdicts.features[DISTANCE]) < apart(grey.features[DISTANCE]) / 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no built-in metric can judge images of these prompts"),
        (["shapes"], "not of the shapes grammar"),
        (["beauty"], "'beauty' is not a metric"),
        (["clip"], "'clip' is not a metric: write shapes, or clip=FOLDER"),
        (["clip=/nowhere"], "lacks config.json, model.safetensors"),
    ],
)
def test_a_metric_that_cannot_judge_here_is_refused(photographs: Workload, names: list[str], said: str) -> None:
    with pytest.raises(CommandFailed, match=said) as failed:
        make_judges(names, photographs, size=SHAPES_SIZE, reference=None)
    assert failed.value.code == 2


@pytest.mark.parametrize("names", [[], ["shapes"]])
def test_the_metric_of_the_shapes_is_refused_for_other_sizes_before_anything_is_measured(names: list[str]) -> None:
    with pytest.raises(CommandFailed, match=r"judges images of 32x32, and spec\.sizes says 1024x1024: name another"):
        make_judges(names, sample_workload(4, 0), size="1024x1024", reference=None)


def test_a_metric_is_named_once() -> None:
    with pytest.raises(CommandFailed, match="give a metric twice"):
        make_judges(["shapes", "shapes"], sample_workload(4, 0), size=SHAPES_SIZE, reference=None)


def test_images_of_another_size_than_the_manifest_says_are_refused() -> None:
    light = manifest.read_variants(shapes_manifest())[0]
    check_size(light, GeneratedImages(np.zeros((2, 32, 32, 3), np.uint8), None))
    with pytest.raises(CommandFailed, match="images are 64 x 48 pixels"):
        check_size(light, GeneratedImages(np.zeros((2, 64, 48, 3), np.uint8), None))

"""`cascade profile` and its parts against a real Triton."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cascade_api import command
from cascade_api.documents import load_cascades
from cascade_models import manifest, repository
from cascade_models.manifest import Variant
from cascade_profiler.measure import execution, quality
from cascade_profiler.measure.progress import Progress
from cascade_profiler.measure.replica import Replica
from cascade_profiler.measure.workload import sample_workload
from support.triton import shapes_manifest

pytestmark = pytest.mark.contract


@pytest.fixture
def light() -> Variant:
    return manifest.read_variants(shapes_manifest())[0]


@pytest.fixture(autouse=True)
def _all_cores() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def test_a_timed_batch_is_formed_by_the_server_from_single_requests(light: Variant, tmp_path: Path) -> None:
    workload = sample_workload(8, 0)
    repository.render([execution.measured_model(light, 4)], tmp_path / "models", queue_delay_us=execution.GATHER_US)
    with Replica(tmp_path / "models", core=max(os.sched_getaffinity(0)), load=["shapes-light-b4"]) as replica:
        taken = replica.time_batches("shapes-light-b4", workload, batch=4, count=5, confidence=True)
        assert taken is not None
        assert len(taken) == 5
        assert all(0 < seconds < 10 for seconds in taken)
        # This model never runs three at once, so there is nothing to be timed.
        assert replica.time_batches("shapes-light-b4", workload, batch=3, count=1, confidence=True) is None


def test_images_are_judged_in_the_order_of_their_prompts(light: Variant, tmp_path: Path) -> None:
    workload = sample_workload(11, 3)
    cores = sorted(os.sched_getaffinity(0))
    variants = [dataclasses.replace(light, batch=2)]
    made = quality.measure_images(variants, workload, directory=tmp_path / "a", cores=cores, progress=Progress({}))
    alone = quality.measure_images(variants, workload, directory=tmp_path / "b", cores=cores[:1], progress=Progress({}))
    for metric in quality.METRICS:
        np.testing.assert_array_equal(made["shapes-light"].values[metric], alone["shapes-light"].values[metric])
    np.testing.assert_allclose(made["shapes-light"].confidence, alone["shapes-light"].confidence, atol=0.02)


@pytest.mark.slow
def test_a_profile_is_measured_and_put_into_its_manifest(tmp_path: Path) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(shapes_manifest())
    options = ["--prompts", "40", "--seconds", "0.1", "--batches", "1,2"]
    ended = CliRunner().invoke(command.build(), ["profile", "-f", str(file), "-o", str(file), *options])
    assert ended.exit_code == 0, ended.output
    found = load_cascades(file.read_text(), source="measured")
    spec = found.profile_of(found.cascades[0]).spec
    assert spec.source.kind == "measured"
    assert len(spec.execution) == 4
    assert len(spec.discriminator) == 2
    assert len(spec.quality) == 121
    assert "shapes-light to shapes-heavy: cost ratio 1:" in ended.output

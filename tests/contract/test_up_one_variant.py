"""A cascade of one variant without a discriminator, by commands alone: from its profile to a picture and the status."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from cascade_api.documents import load_cascades
from support.local_run import CASCADE, HUNG_S, PATIENT, LocalRun
from support.triton import shapes_manifest

SMALLEST = ("--prompts", "40", "--seconds", "0.1", "--batches", "1", "--starts", "1")

pytestmark = pytest.mark.contract


def manifest() -> str:
    """The example with its heavy variant alone; the profile that it names is yet to be measured."""
    documents = yaml.safe_load_all(shapes_manifest())
    cascade = next(document for document in documents if document["kind"] == "DiffusionCascade")
    spec = cascade["spec"]
    spec["objective"]["latency"] = PATIENT
    spec["variants"] = [variant for variant in spec["variants"] if variant["name"] == "shapes-heavy"]
    del spec["discriminator"]
    return yaml.safe_dump(cascade)


def test_one_variant_is_profiled_planned_and_served(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, manifest=manifest())
    done = subprocess.run(
        [CASCADE, "profile", "-f", run.manifest, "-o", run.manifest, *SMALLEST],
        capture_output=True, text=True, timeout=HUNG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (profile,) = load_cascades(run.manifest.read_text(), source="manifest").profiles
    assert [row.chain for row in profile.spec.quality] == [("shapes-heavy",)]
    assert profile.spec.discriminator == []
    try:
        done = run.up()
        assert done.returncode == 0, done.stdout + done.stderr
        made = run.generate()
        assert (made["route"], made["variant"]) == ("direct", "shapes-heavy")
        (cascade,) = run.status()["cascades"]
        assert [row["chain"] for row in cascade["plan"]["rows"]] == [["shapes-heavy"]]
        assert {pool["variant"] for pool in cascade["pools"]} == {"shapes-heavy"}
    finally:
        run.end()

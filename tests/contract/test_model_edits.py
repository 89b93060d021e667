"""Pipelines of diffusers with random weights edit given images, or say at their start that they cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascade_models import catalogue
from support.tiny_model import run_there

EDIT = ("FluxPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline")
CANNOT = sorted(
    {entry.assembly.pipeline for entry in catalogue.entries().values()} & {"SanaPipeline", "SanaSprintPipeline"}
)

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("edits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "cache"))
        found: dict[str, Any] = json.loads(run_there("edits_served.py", folder, *EDIT, *CANNOT).splitlines()[-1])
    return found


@pytest.mark.parametrize("name", EDIT)
def test_an_edit_starts_from_its_own_image_and_keeps_what_the_mask_keeps(edited: dict[str, Any], name: str) -> None:
    found = edited[name]
    assert min(found["of another image"], found["drawn anew"]) > 4
    assert max(found["alone"], found["masked alone"]) <= 2
    assert found["kept"] == found["plain again"] == 0
    assert found["steps"] == 2, "half of four steps"


@pytest.mark.parametrize("name", CANNOT)
def test_a_pipeline_that_cannot_edit_says_so_at_its_start(edited: dict[str, Any], name: str) -> None:
    assert edited[name].startswith("edits: diffusers ")
    assert edited[name].endswith(f" for {name}: leave it out")

"""The manifest that `cascade explore` writes: the one that was read, with other variants; and its wrong options."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cascade_api import command
from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import load_documents
from cascade_models.manifest import ManifestVariant, read_variants
from cascade_models.recipe import Settings
from cascade_profiler.explore.manifests import cascade_of, with_variants
from cascade_profiler.explore.session import MOST_CHAINS
from cascade_profiler.explore.space import LONGEST_NAME
from cascade_profiler.measure import grid
from support.exploring import shapes_variants
from support.factories import make_profile
from support.triton import shapes_manifest

LIGHT, HEAVY = shapes_variants()
FOUND = (
    replace(LIGHT, name="shapes-light-1", settings=Settings(1)),
    replace(HEAVY, name="shapes-heavy-6-unguided", settings=Settings(6, 1.0)),
    replace(HEAVY, name="shapes-heavy-12-g1-5-15to60", settings=Settings(12, 1.5, "15-60")),
    replace(HEAVY, name="shapes-heavy-int8-12", settings=Settings(12), precision="int8"),
    HEAVY,
)
CACHES = {"first-block:0.08": {"kind": "first-block", "threshold": "0.08"},
          "taylor-seer:3": {"kind": "taylor-seer", "interval": 3}}  # fmt: skip


def explored(kept: Sequence[ManifestVariant], **heavy: Any) -> tuple[str, DiffusionCascade]:
    """The manifest with other variants; ``heavy`` are fields of the heavy variant in the one that was read."""
    documents = list(yaml.safe_load_all(shapes_manifest()))
    for document in documents:
        if document["kind"] == "DiffusionCascade":
            document["spec"]["variants"][1] |= heavy
    text = "---\n".join(yaml.safe_dump(document) for document in documents)
    (cascade,) = (d for d in load_documents(text, source="read") if isinstance(d, DiffusionCascade))
    written = with_variants(text, cascade, kept)
    return written, cascade_of(written, cascade)


def test_what_was_found_is_served_as_it_was_drawn() -> None:
    written, cascade = explored(FOUND)
    assert [variant.name for variant in cascade.spec.variants] == [one.name for one in FOUND]
    assert [variant.edits for variant in cascade.spec.variants] == [None, True, True, True, True]
    assert [(one.name, one.model, one.settings) for one in read_variants(written)] == [
        (one.name, one.model, one.settings) for one in FOUND
    ]


def test_step_caches_are_written_as_a_manifest_has_them() -> None:
    large = replace(HEAVY, engine="diffusers")
    kept = [replace(large, name=f"large-{at}", settings=Settings(9, step_cache=text)) for at, text in enumerate(CACHES)]
    written, cascade = explored(kept, engine="diffusers")
    assert [variant.settings.wire()["stepCache"] for variant in cascade.spec.variants] == list(CACHES.values())
    assert [one.settings.step_cache for one in read_variants(written)] == list(CACHES)


def test_the_rest_of_the_manifest_stays() -> None:
    written, cascade = explored(FOUND)
    (before,) = (d for d in load_documents(shapes_manifest(), source="read") if isinstance(d, DiffusionCascade))
    others = {"variants": []}
    assert cascade.spec.model_copy(update=others) == before.spec.model_copy(update=others)
    assert written.count("kind: CascadeProfile") == 1


def test_no_more_workers_are_asked_for_than_before() -> None:
    _, cascade = explored(FOUND, minHosts=2)
    assert [variant.min_hosts for variant in cascade.spec.variants] == [0, 2, 0, 0, 0]


def test_kubectl_can_keep_its_copy_of_the_profile() -> None:
    names = [f"{at}" + "n" * (LONGEST_NAME - 1) for at in range(8)]
    cells = {cell: {"q2": grid.Estimate(0.991, 0.001)} for cell in grid.CELLS}
    chains = list(itertools.combinations(names, 2))[:MOST_CHAINS]
    rows = [row for light, heavy in chains for row in grid.quality_rows(light, heavy, cells)]
    profile = make_profile(quality=[row.wire() for row in rows])
    assert len(json.dumps(profile.wire())) < 256 * 1024


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--images", "100", "--minutes", "1"], "--images, --minutes: are both given: choose one budget"),
        (["--steps", "shapes-light=9"], "--steps: shapes-light-9: a light model takes 1 to 4 steps, not 9"),
        (["--guidance", "2"], "--guidance: shapes-light-1-g2: the light weights have theirs built in"),
        (["--guided", "15-60", "--guidance", "shapes-heavy=own"], "--guided: shapes-light-2-15to60: the light weights"),
        (["--step-cache", "taylor-seer:3"], "--step-cache: shapes-light-4-ts3: builtin://shapes has none"),
        (["--precision", "own,bf16"], "--precision: onnxruntime does not compute in bf16 on class cpu"),
        (["--objective", "fd-layout"], "--objective: 'fd-layout' is not a mean over images"),
        (["--batches", "2"], "--batches: batch 1 must be among them"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(tmp_path: Path, options: list[str], said: str) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(shapes_manifest())
    output = tmp_path / "explored.yaml"
    run = CliRunner().invoke(command.build(), ["explore", "-f", str(file), "-o", str(output), *options])
    assert run.exit_code != 0
    assert said in str(run.exception) + run.output
    assert [path.name for path in tmp_path.iterdir()] == ["cascade.yaml"]


def test_what_cannot_be_explored_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    file, prompts = tmp_path / "cascade.yaml", tmp_path / "prompts.txt"
    document = next(one for one in yaml.safe_load_all(shapes_manifest()) if one["kind"] == "DiffusionCascade")
    document["spec"]["variants"] = document["spec"]["variants"][:1]
    file.write_text(yaml.safe_dump(document))
    prompts.write_text("a red circle\na blue square\n")
    arguments = ["explore", "-f", str(file), "-o", str(tmp_path / "explored.yaml")]
    few = CliRunner().invoke(command.build(), [*arguments, "--prompts-from", str(prompts)])
    assert "prompts.txt has 2 different prompts: write at least 128" in str(few.exception)
    del document["spec"]["discriminator"]
    file.write_text(yaml.safe_dump(document))
    unjudged = CliRunner().invoke(command.build(), arguments)
    assert "shapes-light has no discriminator, without which there are no chains" in str(unjudged.exception)
    assert not list(tmp_path.glob("*.measured"))

"""The public variants that are known by name, and manifests that use them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cascade_api import command
from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import load_documents
from cascade_api.variants import SOURCE_PATTERN, Engine
from cascade_models import catalogue, engines, manifest, repository
from cascade_models.catalogue import CatalogueError
from cascade_models.recipe import Recipe
from support.resources import cascade_document

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIGHTNING = "hf://ByteDance/SDXL-Lightning"
JUDGE = "file:///models/judge"


def text_of(
    model: dict[str, Any],
    *,
    settings: dict[str, Any] | None = None,
    size: str = "1024x1024",
    engine: str = "diffusers",
    precision: str | None = None,
    discriminator: str = JUDGE,
) -> str:
    """A manifest whose only variant is this model."""
    document = cascade_document()
    spec = document["spec"]
    variant = {"name": "first", "model": {"revision": COMMIT, **model}, "settings": settings or {"steps": 4}}
    spec["sizes"] = [size]
    spec["variants"] = [{**variant, "engine": engine, **({"precision": precision} if precision else {})}]
    spec["discriminator"] = {"source": discriminator}
    return yaml.safe_dump(document)


def recipe(model: dict[str, Any], **others: Any) -> Recipe:
    (variant,) = manifest.read_variants(text_of(model, **others))
    return repository.recipe_of([variant])


def test_there_are_sixteen_variants_and_seven_cascades_light_to_heavy() -> None:
    assert len(catalogue.entries()) >= 16
    cascades = catalogue.cascades()
    assert len(cascades) >= 7
    for members in cascades.values():
        work = [entry.steps * entry.parameters_millions["denoiser"] for entry in members]
        assert work == sorted(work), "light to heavy"


@pytest.mark.parametrize("entry", catalogue.entries().values(), ids=lambda entry: entry.name)
def test_a_variant_can_be_served_as_it_stands_in_the_catalogue(entry: catalogue.CatalogueEntry) -> None:
    named = next((name for name, steps in entry.weights.items() if steps == entry.steps), None)
    model = {"source": entry.source, "revision": entry.revision, **({"weights": named} if named else {})}
    for engine in entry.engines:
        settings, size = {"steps": entry.steps}, f"{entry.width}x{entry.height}"
        made = recipe(model, settings=settings, size=size, engine=engine)
        own = replace(entry.assembly, steps=entry.weights.get(named or ""))
        assert (made.assembly, made.batch) == (own, entry.largest_batch)
        assert Recipe.of_parameters(json.loads(json.dumps(made.parameters()))) == made


def test_a_manifest_may_name_the_engines_that_there_are() -> None:
    assert [engine.value for engine in Engine] == list(engines.ENGINES)
    for name in engines.ENGINES:
        engine = engines.named(name)
        assert (callable(engine.prepare), callable(engine.bind)) == (True, True)
    assert engines.that_load() == ("onnxruntime",)


def test_sources_are_such_as_a_manifest_may_name() -> None:

    assert all(re.fullmatch(SOURCE_PATTERN, entry.source) for entry in catalogue.entries().values())


def test_a_model_that_the_catalogue_does_not_know_is_run_as_it_says_itself() -> None:
    made = recipe({"source": "hf://me/mine"})
    assert made.assembly.pipeline == ""
    assert made.assembly.guidance is None
    assert made.batch == manifest.DEFAULT_BATCH


def test_a_manifest_may_choose_guidance_and_precision() -> None:
    model = {"source": LIGHTNING, "weights": "2step"}
    made = recipe(model, settings={"steps": 2, "guidance": "1.5"}, precision="bf16")
    known = catalogue.entries()["sdxl-lightning"].assembly
    assert (made.settings["first"].guidance, made.assembly.dtype) == (1.5, "bfloat16")
    assert made.assembly == replace(known, dtype="bfloat16", steps=2)
    own = recipe(model, settings={"steps": 2})
    assert own.settings["first"].guidance == known.guidance


def test_the_config_takes_the_accelerator_and_has_no_queue_policy() -> None:
    (variant,) = manifest.read_variants(text_of({"source": LIGHTNING, "weights": "4step"}))
    text = repository.config(variant.model, repository.recipe_of([variant]))
    assert "KIND_AUTO" in text
    assert f"max_batch_size: {catalogue.entries()['sdxl-lightning'].largest_batch}\n" in text
    assert "dims: [ 1024, 1024, 3 ]" in text
    assert "queue_policy" not in text
    assert "decoupled" not in text
    assert "decoupled: true" in repository.config(variant.model, repository.recipe_of([variant]), previews=True)


@pytest.mark.parametrize(
    ("model", "others", "field", "said"),
    [
        ({"revision": "main"}, {}, "model.revision", "pin a commit.*cascade model-repo resolve"),
        ({"revision": "v1.0"}, {}, "model.revision", "may later mean other files"),
        ({"source": "hf://ByteDance"}, {}, "model.source", "write hf://owner/name"),
        ({"source": "file://relative"}, {}, "model.source", "not an absolute path"),
        ({}, {"settings": {"steps": 3}}, "settings.steps", "weights 4step are for 4, not 3"),
        ({"weights": "light"}, {}, "model.weights", "has 2step, 4step, 8step: name one of them"),
        ({"weights": None}, {}, "model.weights", "has 2step, 4step, 8step: name one of them"),
        ({"source": "hf://me/mine"}, {}, "model.weights", "hf://me/mine has no named weights: leave it out"),
        ({}, {"size": "1024x1020"}, "spec.sizes.0", "1024x1020: the height must be a multiple of 8, not 1020"),
        ({"source": "hf://black-forest-labs/FLUX.1-dev", "weights": None}, {"engine": "onnxruntime"},
         "engine", "cannot run flux-dev: write diffusers"),
        ({}, {"discriminator": "builtin://shapes"}, "discriminator.source", "judges images of builtin:// models only"),
        ({}, {"discriminator": "hf://me/judge"}, "discriminator.source", "the commit stands behind an @"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_field_and_fix(
    model: dict[str, Any], others: dict[str, Any], field: str, said: str
) -> None:
    asked = {"source": LIGHTNING, "weights": "4step", **model}
    with pytest.raises(manifest.ManifestError, match=said) as refusal:
        recipe({name: value for name, value in asked.items() if value is not None}, **others)
    assert refusal.value.field.endswith(field)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"revision": "main"}, "mine.yaml: revision: should be a commit"),
        ({"steps": "many"}, "mine.yaml: steps: should be int"),
        ({"colour": 1}, "mine.yaml: colour: is not known"),
        ({"licence": None}, "mine.yaml: licence: is required: add it"),
        ({"engines": ["magic"]}, "mine.yaml: engines: should be of diffusers"),
        ({"assembly": {"dtype": "int3"}}, "mine.yaml: assembly.dtype: should be one of"),
        ({"assembly": {"guide": 1}}, "mine.yaml: assembly: guide: is not known"),
        ({"image": {"height": 8}}, "mine.yaml: image: width: is required"),
        ({"weights": {"few": 2}}, "mine.yaml: weights: should have some for steps"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content = yaml.safe_load((catalogue.FOLDER / "sd15.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(CatalogueError, match=said):
        catalogue.entries(tmp_path)


def test_a_cascade_of_strangers_or_of_several_sizes_is_refused(tmp_path: Path) -> None:
    for name in ("sd15", "sdxl"):
        (tmp_path / f"{name}.yaml").write_text((catalogue.FOLDER / f"{name}.yaml").read_text())
    for members, said in (
        ("[sd15, sd16]", "no variant 'sd16'"),
        ("[sd15, sdxl]", "different image sizes"),
        ("[sd15]", "two"),
    ):
        (tmp_path / catalogue.CASCADES).write_text(f"mine: {members}\n")
        catalogue.cascades.cache_clear()
        with pytest.raises(CatalogueError, match=said):
            catalogue.cascades(tmp_path)
    catalogue.cascades.cache_clear()


def test_the_command_lists_them_for_people_and_programs() -> None:
    listed = CliRunner().invoke(command.build(), ["model-repo", "list"])
    assert listed.exit_code == 0
    assert "sdxl-lightning -> sdxl" in listed.output
    told = json.loads(CliRunner().invoke(command.build(), ["model-repo", "list", "--json"]).output)
    assert {entry["name"] for entry in told["variants"]} == set(catalogue.entries())
    assert told["cascades"]["flux"] == ["flux-schnell", "flux-dev"]


@pytest.mark.parametrize("name", ["flux2", "z-image"])
def test_an_example_is_the_cascade_that_the_catalogue_has(name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text()
    (cascade,) = load_documents(text, source=name)
    assert isinstance(cascade, DiffusionCascade)
    members = catalogue.cascades()[name]
    served = manifest.read_variants(text)
    light, *_, heavy = members
    assert [each.source for each in served[:2]] == [light.source, heavy.source]
    for made in repository.models_of(served).values():
        (entry,) = [member for member in members if member.source == made.source]
        assert (made.revision, made.batch, made.assembly) == (entry.revision, entry.largest_batch, entry.assembly)
        assert set(made.settings) <= {variant.name for variant in cascade.spec.variants}


def test_documents_with_public_models_are_valid_resources() -> None:
    document = cascade_document()
    for variant, name in zip(document["spec"]["variants"], ("sdxl-lightning", "sdxl"), strict=False):
        entry = catalogue.entries()[name]
        variant["model"] = {"source": entry.source, "revision": entry.revision}
        variant["settings"] = {"steps": entry.steps}
    assert DiffusionCascade.model_validate(document)

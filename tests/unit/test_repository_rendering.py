"""A manifest becomes a Triton model repository, or is refused if it cannot be served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascade_api import command
from cascade_api.variants import (
    ADAPTER_MEMORY_MIB,
    Adapter,
    Engine,
    GuidanceInterval,
    ImageSettings,
    Precision,
    StepCache,
    Weights,
)
from cascade_models import pipelines, recipe, repository
from cascade_models.manifest import DEFAULT_BATCH, ManifestError, read_variants
from cascade_models.recipe import Recipe, Settings
from cascade_models.shapes import assets
from support.triton import EXAMPLE, HEAVY, LIGHT, render, shapes_manifest


def documents(**changes: Any) -> str:
    """The example with its first variant changed: dotted paths to values, None to leave a field out.

    A path that begins with ``spec`` is the cascade's.
    """
    parts = list(yaml.load_all(shapes_manifest(), Loader=yaml.CSafeLoader))
    spec = next(part for part in parts if part["kind"] == "DiffusionCascade")["spec"]
    for path, value in changes.items():
        *steps, last = path.split(".")
        target = {"spec": spec} if path.startswith("spec.") else spec["variants"][0]
        for step in steps:
            target = target.setdefault(step, {})
        if value is None:
            del target[last]
        else:
            target[last] = value
    return yaml.dump_all(parts, Dumper=yaml.CSafeDumper)


PUBLIC = {"model.source": "hf://me/mine", "model.revision": "0" * 40, "model.weights": None, "engine": "diffusers"}
PUBLIC |= {"spec.discriminator": None}
ADAPTER = {"name": "ink", "source": "hf://owner/ink", "revision": "1" * 40}


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_the_example_can_be_served_with_the_weights_that_are_here(tmp_path: Path) -> None:
    variants = read_variants(EXAMPLE.read_text())
    assert {variant.revision for variant in variants} == {assets.revision()}
    assert repository.render(repository.models_of(variants), tmp_path) == [LIGHT, HEAVY]


def test_a_variant_without_a_discriminator_is_sure_of_every_image() -> None:
    light, _ = read_variants(documents(**{"spec.discriminator": None}))
    pipeline = pipelines.load(repository.recipe_of([light]))
    prompt = pipeline.read("a large red circle", "")
    images = pipeline.generate([prompt] * 2, [1, 2], light.settings, None)
    assert images.shape == (2, 32, 32, 3)
    assert pipeline.judge(images, [prompt] * 2).tolist() == [1.0, 1.0]


def test_a_model_is_a_config_and_a_shim(tmp_path: Path) -> None:
    render(shapes_manifest(), tmp_path)
    assert sorted(contents(tmp_path)) == [
        f"{model}/{file}" for model in sorted((LIGHT, HEAVY)) for file in ("1/model.py", "config.pbtxt")
    ]


def test_variants_of_the_same_weights_are_one_model_whose_config_names_them() -> None:
    quick = {"steps": 8, "guidance": "1.5"}
    models = repository.models_of(read_variants(shapes_manifest(**{"shapes-quick": quick})))
    assert list(models) == [LIGHT, HEAVY]
    made = models[HEAVY]
    assert made.settings == {"shapes-heavy": Settings(24), "shapes-quick": Settings(8, 1.5)}
    assert made.default == Settings(8, size="32x32")
    assert "shapes-quick" in repository.config(HEAVY, made)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.weights": "heavy"},
        {"model.revision": "other"},
        {"model.source": "hf://me/mine"},
        {"engine": "diffusers"},
        {"precision": "fp32"},
    ],
)
def test_other_weights_have_another_model(changes: dict[str, Any]) -> None:
    light, _ = read_variants(documents(**changes))
    assert light.model != LIGHT


def test_settings_size_and_name_do_not_change_the_model() -> None:
    light, _ = read_variants(documents(**{"name": "other", "settings.steps": 3, "spec.sizes": ["64x64"]}))
    assert light.model == LIGHT


@given(
    source=st.sampled_from(["builtin://shapes", "hf://me/mine", "file:///models/x"]),
    revision=st.from_regex(r"[0-9a-f]{40}", fullmatch=True),
    part=st.none() | st.sampled_from(["heavy", "2step"]),
    engine=st.sampled_from(Engine),
    precision=st.none() | st.sampled_from(Precision),
)
def test_all_components_say_the_name_of_a_model_in_the_same_way(
    source: str, revision: str, part: str | None, engine: Engine, precision: Precision | None
) -> None:
    changes = {"model.source": source, "model.revision": revision, "model.weights": part, "engine": engine.value}
    optional = {} if precision is None else {"precision": precision.value}
    light, _ = read_variants(documents(**changes, **optional))
    assert light.model == Weights(source, revision, part, engine, precision).model


@given(
    steps=st.integers(1, 1000),
    guidance=st.none() | st.decimals(0, 999, places=3).map(lambda number: f"{number:f}"),
    ends=st.none() | st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True),
    cache=st.none()
    | st.builds(StepCache, kind=st.just("taylor-seer"), interval=st.integers(2, 99))
    | st.builds(StepCache, kind=st.just("first-block"), threshold=st.sampled_from(["0.08", "1", "12.005"])),
)
def test_what_a_request_says_of_settings_is_what_the_model_reads(
    steps: int, guidance: str | None, ends: list[int] | None, cache: StepCache | None
) -> None:
    default = Settings(7, 3.5)
    low, high = sorted(ends or (0, 100))
    interval = None if ends is None else GuidanceInterval(from_percent=low, to_percent=high)
    guided_part, kept = "" if ends is None else f"{low}-{high}", "" if cache is None else cache.text
    wanted = Settings(steps, 3.5 if guidance is None else float(guidance), guided_part, kept)
    said = ImageSettings(steps=steps, guidance=guidance, guidance_interval=interval, step_cache=cache)
    assert Settings.read(said.parameters, default) == wanted
    assert Settings.read(wanted.parameters(), default) == wanted
    (variant, _) = read_variants(documents(**{"model.weights": "heavy", "settings": said.wire()}))
    assert dataclasses.replace(variant.settings, guidance=wanted.guidance) == wanted
    guided = [step for step in range(steps) if wanted.guides(step)]
    assert guided == [step for step in range(steps) if low / 100 <= step / steps < high / 100 or ends is None]


@pytest.mark.parametrize("more", [{}, {"scale": "0.80", "weightName": "a/ink.safetensors"}])
def test_all_components_say_what_an_adapter_is_in_the_same_way(more: dict[str, str]) -> None:
    light, _ = read_variants(documents(**PUBLIC, adapters=[{**ADAPTER, **more}]))
    assert [adapter.digest for adapter in light.adapters] == [Adapter.model_validate({**ADAPTER, **more}).digest]
    assert repository.recipe_of([light]).adapter_memory_mib == ADAPTER_MEMORY_MIB == recipe.ADAPTER_MEMORY_MIB


def test_a_process_learns_of_adapters_from_its_config() -> None:
    light, _ = read_variants(documents(**PUBLIC))
    adapted, _ = read_variants(documents(**PUBLIC, adapters=[ADAPTER], adapterMemoryMiB=64))
    for variants in ([light], [adapted, light], [adapted]):
        made = repository.recipe_of(variants)
        assert Recipe.in_config(repository.config("name", made)) == made
    assert repository.recipe_of([light, adapted]).adapters == {a.digest: a for a in adapted.adapters}


def test_variants_of_the_same_weights_have_one_discriminator() -> None:
    judged = {"discriminator": {"source": "builtin://shapes"}, "spec.discriminator": None}
    text = documents(**{"model.weights": "heavy", **judged})
    with pytest.raises(ManifestError, match="the same discriminator: write builtin://shapes") as refusal:
        repository.models_of(read_variants(text))
    assert refusal.value.field == "spec.discriminator.source"


def test_the_config_carries_the_recipe_and_the_profiles_largest_batch() -> None:
    variant = read_variants(shapes_manifest())[0]
    profile = next(
        part for part in yaml.load_all(shapes_manifest(), Loader=yaml.CSafeLoader) if part["kind"] == "CascadeProfile"
    )
    largest = max(row["batch"] for row in profile["spec"]["execution"] if row["variant"] == variant.name)
    text = repository.config(variant.model, repository.recipe_of([variant]))
    assert f'name: "{variant.model}"' in text
    assert f"max_batch_size: {largest}\n" in text
    assert f'key: "revision" value {{ string_value: "{variant.revision}" }}' in text
    assert "dims: [ 32, 32, 3 ]" in text


def test_batches_of_another_size_do_not_count() -> None:
    parts = list(yaml.load_all(shapes_manifest(), Loader=yaml.CSafeLoader))
    profile = next(part for part in parts if part["kind"] == "CascadeProfile")
    rows = profile["spec"]["execution"]
    rows += [{**row, "size": "64x64", "batch": 32} for row in rows if row["batch"] == 1]
    variants = read_variants(yaml.dump_all(parts, Dumper=yaml.CSafeDumper))
    assert variants == read_variants(shapes_manifest())


def test_a_queue_has_no_policy_since_triton_then_forgets_waiting_requests_for_half_a_second() -> None:
    variant = read_variants(shapes_manifest())[0]
    assert "queue_policy" not in repository.config(variant.model, repository.recipe_of([variant]))


def test_a_variant_that_no_profile_knows_gets_the_default_batch() -> None:
    named = read_variants(shapes_manifest(**{"shapes-slow": {"steps": 100}}))
    assert next(variant.batch for variant in named if variant.name == "shapes-slow") == DEFAULT_BATCH


def test_a_recipe_survives_being_parameters() -> None:
    recipe = repository.recipe_of(read_variants(shapes_manifest(**{"shapes-heavy": {"guidance": "1.5"}}))[1:])
    assert Recipe.of_parameters(recipe.parameters()) == recipe


def test_rendering_again_changes_nothing(tmp_path: Path) -> None:
    render(shapes_manifest(), tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert render(shapes_manifest(), tmp_path) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_a_model_that_is_gone_is_removed_and_strangers_stay(tmp_path: Path) -> None:
    render(shapes_manifest(), tmp_path)
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    light, _ = read_variants(shapes_manifest())
    assert repository.render(repository.models_of([light]), tmp_path) == [HEAVY]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", LIGHT]


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"model.revision": "0" * 64}, "spec.variants.0.model.revision", "the weights here are revision"),
        ({"model.source": "builtin://faces"}, "spec.variants.0.model.source", "no built-in model"),
        ({"model.source": "hf://model"}, "spec.variants.0.model.source", "write hf://owner/name"),
        ({"model.source": "s3://org/model"}, "spec.variants.0.model.source", "no built-in model"),
        ({"model.weights": "medium"}, "spec.variants.0.model.weights", "write heavy or light"),
        ({"model.weights": None}, "spec.variants.0.model.weights", "write heavy or light"),
        ({"settings.steps": 9}, "spec.variants.0.settings.steps", "1 to 4 steps"),
        ({"settings.steps": "two"}, "spec.variants.0.settings.steps", "should be a whole number"),
        ({"settings.guidance": "two"}, "spec.variants.0.settings.guidance", 'not a number: write one such as "4.5"'),
        ({"settings.guidance": "2.0"}, "spec.variants.0.settings.guidance", "have theirs built in: leave it out"),
        ({"settings.guidanceInterval": 3}, "spec.variants.0.settings.guidanceInterval", "should be a mapping"),
        (
            {"settings.guidanceInterval": {"fromPercent": 60, "toPercent": 15}},
            "spec.variants.0.settings.guidanceInterval",
            "write fromPercent below toPercent",
        ),
        (
            {"settings.guidanceInterval": {"fromPercent": 15, "toPercent": 60}},
            "spec.variants.0.settings.guidanceInterval",
            "the light weights have their guidance built in",
        ),
        ({"settings.stepCache": 3}, "spec.variants.0.settings.stepCache", "should be a mapping"),
        ({"settings.stepCache": {"kind": "all"}}, "spec.variants.0.settings.stepCache.kind", "write first-block or"),
        (
            {"settings.stepCache": {"kind": "first-block"}},
            "spec.variants.0.settings.stepCache.threshold",
            "is required",
        ),
        (
            {"settings.stepCache": {"kind": "taylor-seer", "interval": 1}},
            "spec.variants.0.settings.stepCache",
            "taylor-seer:1 is out of range",
        ),
        (
            {"settings.stepCache": {"kind": "taylor-seer", "interval": 3}},
            "spec.variants.0.settings.stepCache",
            "builtin://shapes has none: leave it out",
        ),
        ({"precision": "fp16"}, "spec.variants.0.precision", "computes in fp32 or int8"),
        ({"precision": "fp5"}, "spec.variants.0.precision", "write one of fp32, fp16, bf16, int8"),
        ({"spec.sizes": ["64x32"]}, "spec.sizes.0", "write 32x32"),
        ({"spec.sizes": ["big"]}, "spec.sizes.0", "is not a size: write one such as 1024x1024"),
        ({"spec.sizes": []}, "spec.sizes", "is empty: give a size"),
        ({"engine": "tensorrt"}, "spec.variants.0.engine", "write onnxruntime"),
        ({"engine": "onnx"}, "spec.variants.0.engine", "write one of diffusers, onnxruntime, tensorrt"),
        ({"engine": None}, "spec.variants.0.engine", "is required: add it"),
        ({"adapters": [ADAPTER]}, "spec.variants.0.adapters", "builtin://shapes takes none: remove them"),
        (
            PUBLIC | {"engine": "onnxruntime", "adapters": [ADAPTER]},
            "spec.variants.0.adapters",
            "engine onnxruntime cannot apply them: use engine diffusers",
        ),
        (
            PUBLIC | {"adapters": [ADAPTER | {"revision": "main"}]},
            "spec.variants.0.adapters",
            "hf://owner/ink: 'main' is not a commit",
        ),
        (
            PUBLIC | {"adapters": [ADAPTER | {"source": "hf://ink"}]},
            "spec.variants.0.adapters",
            "hf://ink: 'hf://ink' is not a model: write hf://owner/name",
        ),
        (PUBLIC | {"adapters": ["ink"]}, "spec.variants.0.adapters.0", "should be an adapter"),
        (PUBLIC | {"adapters": [ADAPTER | {"scale": "0.0"}]}, "spec.variants.0.adapters.0.scale", "above 0"),
        (PUBLIC | {"adapters": [ADAPTER], "adapterMemoryMiB": 0}, "spec.variants.0.adapterMemoryMiB", "is 0"),
        ({"name": "Light!"}, "spec.variants.0.name", "is not a name"),
        ({"name": "shapes-heavy"}, "spec.variants.1.name", "is there twice"),
        ({"discriminator.source": "builtin://x"}, "spec.variants.0.discriminator.source", "no built-in model"),
    ],
)
def test_what_cannot_be_served_is_refused_by_field_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(ManifestError, match=said) as refusal:
        render(documents(**changes), tmp_path / "models")
    assert refusal.value.field == field
    assert not (tmp_path / "models").exists()


def test_the_command_renders_and_says_what_changed(tmp_path: Path) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(shapes_manifest())
    rendering = ["model-repo", "render", "-f", str(file), str(tmp_path / "models")]
    first, second = (CliRunner().invoke(command.build(), rendering) for _ in range(2))
    models = tmp_path / "models"
    said = [(models / LIGHT, "shapes-light"), (models / HEAVY, "shapes-heavy")]
    assert first.output.splitlines() == [f"{model}: {variant} (changed)" for model, variant in said]
    assert second.output.splitlines() == [f"{model}: {variant} (unchanged)" for model, variant in said]


def test_the_command_refuses_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(documents(engine="tensorrt"))
    for asked, said in ((file, "spec.variants.0.engine: "), (tmp_path / "none.yaml", "No such file")):
        ended = CliRunner().invoke(command.build(), ["model-repo", "render", "-f", str(asked), str(tmp_path / "m")])
        assert ended.exit_code == 2
        assert said in ended.output
        assert len(ended.output.splitlines()) == 1


def test_the_command_prints_the_revision_that_manifests_pin() -> None:
    assert CliRunner().invoke(command.build(), ["model-repo", "revision"]).output.strip() == assets.revision()


def test_missing_weights_are_named_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = shapes_manifest()
    monkeypatch.setattr(assets.revision, "__defaults__", (tmp_path,))
    with pytest.raises(ManifestError, match=r"weights are missing: .* run `make models`") as refusal:
        repository.models_of(read_variants(text))
    assert refusal.value.field == "spec.variants.0.model.weights"


@pytest.mark.parametrize("text", ["a: [1", "kind: CascadeProfile", ""])
def test_a_file_without_a_cascade_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        read_variants(text)


def test_cascades_of_one_manifest_may_have_variants_of_the_same_name_and_weights() -> None:
    text = (EXAMPLE.parent / "shared-pool.yaml").read_text()
    variants = read_variants(text)
    assert [variant.name for variant in variants] == 3 * ["shapes-light", "shapes-heavy"]
    assert len(repository.models_of(variants)) == 2

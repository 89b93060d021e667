"""Manifests: what is accepted, and how each mistake is named with its line, field and fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cascade_api.cascade import CascadeSpec
from cascade_api.documents import FORMS, DocumentError, load_cascades
from cascade_api.pod_values import QUANTITY_PATTERN
from cascade_api.quantities import METRIC_PATTERN
from support.crd import PLURALS, Definition, walk
from support.resources import cascade_document

PROFILE = """\
apiVersion: diffusioncascade.io/v1alpha1
kind: CascadeProfile
metadata: {name: shapes}
spec:
  source: {kind: estimated}
  metrics: [{name: q2, direction: max}]
  objectiveMetric: q2
  execution:
    - {variant: small, class: cpu, size: 32x32, batch: 1, p50Micros: 2000, p95Micros: 2500}
    - {variant: large, class: cpu, size: 32x32, batch: 1, p50Micros: 40000, p95Micros: 41000}
  quality:
    - {chain: [small, large], directPercent: 0, escalationPercent: 0, valuesMilli: {q2: 660}}
"""
CASCADE = """\
apiVersion: diffusioncascade.io/v1alpha1
kind: DiffusionCascade
metadata: {name: shapes}
spec:
  objective: {latency: 2s}
  profileRef: {name: shapes}
  workers:
    - {name: slots, class: cpu, max: 2}
  sizes: [32x32]
  variants:
    - name: small
      model: {source: "builtin://shapes", revision: abc, weights: light}
      settings: {steps: 2}
      engine: onnxruntime
    - name: large
      model: {source: "builtin://shapes", revision: abc, weights: heavy}
      settings: {steps: 20}
      engine: onnxruntime
      pools: [slots]
  discriminator: {source: "builtin://shapes"}
"""
POD = "spec.workers.0.podTemplate"
GOOD = f"{PROFILE}---\n{CASCADE}"


def problem_of(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        load_cascades(text, source="cascade.yaml")
    return str(caught.value)


def test_a_good_file_gives_cascade_and_profile() -> None:
    file = load_cascades(GOOD, source="cascade.yaml")
    (cascade,) = file.cascades
    assert str(cascade.ref) == "default/shapes"
    assert cascade.spec.objective.latency_s == 2
    assert cascade.spec.objective.attainment_percent == 99
    assert file.profile_of(cascade).spec.direction == "max"
    assert cascade.spec.discriminator_of("small") == "builtin://shapes"


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("steps: 20", "stepz: 20", "cascade.yaml:30: spec.variants.1.settings.stepz", "did you mean 'steps'?"),
        ("max: 2", "min: 5, max: 4", "cascade.yaml:21: spec.workers.0.min", "above max (4): lower min or raise max"),
        ("latency: 2s", "latency: two", "spec.objective.latency", "'two' is not a duration: write"),
        ("latency: 2s", "latency: 0s", "spec.objective.latency", "above zero"),
        ("latency: 2s", "latency: 61m", "cascade.yaml:18: spec.objective.latency", "at most 1h: write a shorter"),
        ("{source: \"builtin://shapes\"}", "{source: \"builtin://shapes\"}\n  policy: {scaleToZeroAfter: 721h}",
         "spec.policy.scaleToZeroAfter", "at most 720h: leave it out for never"),
        ("- name: large", "- name: small", "spec.variants", "'small' is there twice"),
        ("max: 2", "max: 0", "spec.workers", "admits nothing: give at least one pool a max above zero"),
        ("max: 2", "max: -1", "spec.workers.0.max", "greater than or equal to 0 (is -1)"),
        ("max: 2}", "max: 2}\n    - {name: more, class: cpu, max: 2}", "spec.workers", "put the pools of one class"),
        ("max: 2}", "max: 2}\n    - {name: slots, class: gpu, max: 2}", "spec.workers", "pool names must be unique"),
        ("max: 2}", "max: 2, hosting: split}", "spec.workers.0.hosting", "'shared' or 'dedicated' (is 'split')"),
        ("pools: [slots]", "pools: [gpus]", "spec.variants.1.pools.0", "is not in spec.workers: add it there, or name"),
        ("max: 2}", "max: 0}\n    - {name: gpus, class: gpu, max: 1}", "spec.variants.1.pools", "admit no workers"),
        ("pools: [slots]", "minHosts: 3", "spec.workers", "fewer than the variants' minHosts together (3)"),
        ("engine: onnxruntime", "engine: tensorrt", "spec.variants.0.engine", "does not run on class cpu: name"),
        ("variant: large, class", "variant: huge, class", "spec.variants.1.name", "is not in the profile's"),
        ("profileRef: {name: shapes}", "profileRef: {name: other}", "spec.profileRef.name", "no CascadeProfile 'oth"),
        ("kind: DiffusionCascade", "kind: Cascade", "kind", "write one of DiffusionCascade, CascadeProfile"),
        ("v1alpha1\nkind: DiffusionCascade", "v9\nkind: DiffusionCascade", "apiVersion", "write diffusioncascade.io"),
        ("engine: onnxruntime", "engine: magic", "spec.variants.0.engine", "'magic'"),
        ("[32x32]", "[32 x 32]", "spec.sizes.0", "is not a size: write width and height in pixels, such as 1024x768"),
        ("[32x32]", "[64x64]", "spec.variants.0.name", "'small' at 64x64 on class 'cpu' is not in the profile's"),
        ("size: 32x32, batch: 1", "size: 32x32, batch: 2", "spec.execution", "lacks a row for batch 1"),
        ("[32x32]", "[32x32, 64x64]", "spec.sizes.1", "cascade profile --sizes 64x64), or remove the size"),
        ("[32x32]", "[32x32, 32x32]", "spec.sizes", "'32x32' is there twice: a size is listed once"),
        ("[32x32]", "[32x32, 8000x5000]", "spec.sizes.1", "8000x5000 has a side above 4096 pixels: write a smaller"),
        ("[32x32]", "[{}]".format(", ".join(f"32x{32 + n}" for n in range(9))), "spec.sizes", "at most 8: remove 1"),
        ("steps: 20", "steps: 20, guidance: 4.5", "settings.guidance", "valid string"),
        ("steps: 20", 'steps: 20, guidance: "4,5"', "settings.guidance", 'is not a number in quotes: write one such'),
        ("{steps: 20}", "{steps: 20}\n      precision: bf16", "spec.variants.1.precision", "computes in fp32, and"),
        ("objectiveMetric: q2", "objectiveMetric: fid", "spec.objectiveMetric", "'fid' is not among"),
        ("pools: [slots]", "pools: [a, b, c, d, e, f, g, h, i]", "spec.variants.1.pools", "most 8: remove 1"),
        ("latency: 2s", "latency: 2s, 1: x", "cascade.yaml:18: spec.objective.1", "put the key in quotes"),
        ("max: 2}", "max: 2, podTemplate: {env: [{nme: A}]}}",
         f"cascade.yaml:21: {POD}.env.0.nme", "did you mean 'name'?"),
        ("max: 2}", "max: 2, podTemplate: {resources: {limits: {memory: 8 GB}}}}",
         f"{POD}.resources.limits.memory", "is not a quantity: write one such as 4, 500m or 8Gi (is '8 GB')"),
        ("max: 2}", "max: 2, podTemplate: {volumes: [{name: a, hostPath: {path: /}}]}}",
         f"cascade.yaml:21: {POD}.volumes.0.hostPath", "unknown field; known here: configMap, emptyDir"),
        ("max: 2}", "max: 2, podTemplate: {volumes: [{name: a}]}}",
         f"{POD}.volumes.0.name", "'a' needs one of emptyDir, configMap, secret, persistentVolumeClaim"),
        ("max: 2}", "max: 2, podTemplate: {volumes: [{name: tmp, emptyDir: {}}]}}",
         f"{POD}.volumes.0.name", "'tmp' is taken: the replicas have volumes agent-key, models, tmp"),
        ("max: 2}", "max: 2, podTemplate: {volumeMounts: [{name: a, mountPath: /mnt/../etc}]}}",
         f"{POD}.volumeMounts.0.mountPath", "is not a path from the root without . and ..: write one such"),
        ("max: 2}", "max: 2, podTemplate: {volumeMounts: [{name: a, mountPath: /usr/lib}]}}",
         f"{POD}.volumeMounts.0.mountPath", "'/usr/lib' is the system's: nothing is mounted in /bin"),
        ("max: 2}", "max: 2, podTemplate: {volumeMounts: [{name: a, mountPath: /a}]}}",
         f"{POD}.volumeMounts.0.name", "'a' is not among volumes: add it there"),
        ("max: 2}", "max: 2, podTemplate: {labels: {diffusioncascade.io/pool: a}}}",
         f"{POD}.labels", "'diffusioncascade.io/pool' is the operator's own: remove it"),
        ("max: 2}", "max: 2, podTemplate: {labels: {queue: a/b}}}",
         f"{POD}.labels.queue", "'a/b' is not a label's value: write letters, digits"),
        ("max: 2}", "max: 2, podTemplate: {runtimeClassName: Nvidia}}",
         f"{POD}.runtimeClassName", "'Nvidia' is not an object's name: write lower-case letters"),
        ("p95Micros: 2500", "p95Micros: 25", "spec.execution.0.p95Micros", "below p50Micros"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_field(old: str, new: str, where: str, what: str) -> None:
    assert old in GOOD
    text = problem_of(GOOD.replace(old, new, 1))
    assert where in text
    assert what in text


@pytest.mark.parametrize(("page", "heading"), [("operator.md", "## Workers"), ("models.md", "## The catalogue")])
def test_the_pages_show_what_is_taken(page: str, heading: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    shown = yaml.safe_load(text.partition(heading)[2].partition("```yaml\n")[2].partition("```")[0])
    given = cascade_document()["spec"]
    spec = {**given, **shown}
    usual = {**given["variants"][0], "pools": [spec["workers"][0]["name"]]}
    assert CascadeSpec.model_validate({**spec, "variants": [{**usual, **shown["variants"][0]}, usual]})


def test_one_variant_is_a_cascade_where_its_own_quality_was_measured() -> None:
    start, end = CASCADE.index("    - name: large"), CASCADE.index("  discriminator:")
    one = f"---\n{CASCADE[:start]}{CASCADE[end:]}"
    assert "the profile's spec.quality has no chain of ['small']: profile it" in problem_of(PROFILE + one)
    profile = f"{PROFILE}    - {{chain: [small], valuesMilli: {{q2: 660}}}}\n"
    load_cascades(profile + one, source="cascade.yaml")
    judge = '  discriminator: {source: "builtin://shapes"}\n'
    load_cascades(profile + one.replace(judge, ""), source="cascade.yaml")
    assert "spec.discriminator: is missing: of several variants it judges" in problem_of(GOOD.replace(judge, ""))


POOL = """\
apiVersion: diffusioncascade.io/v1alpha1
kind: WorkerPool
metadata: {name: slots}
spec: {class: cpu, workers: {min: 1, max: 6}}
"""
ON_POOL = CASCADE.replace("{name: slots, class: cpu, max: 2}", "{pool: slots, max: 8}")


def test_a_cascade_on_a_worker_pool_knows_what_the_pool_says() -> None:
    file = load_cascades(f"{PROFILE}---\n{ON_POOL}---\n{POOL}", source="cascade.yaml")
    (cascade,) = file.cascades
    (workers,) = cascade.spec.workers
    assert (workers.label, workers.accelerator_class, workers.hosting, workers.max) == ("slots", "cpu", "shared", 8)
    assert cascade.spec.accelerators == {"cpu": 8}
    assert cascade.spec.wire()["workers"] == [{"pool": "slots", "max": 8}], "it is written as it was"
    assert [pool.metadata.name for pool in file.pools] == ["slots"]


@pytest.mark.parametrize(
    ("pool", "workers", "says"),
    [
        (POOL.replace("slots", "others"), "", "cascade.yaml:21: spec.workers.0.pool: there is no WorkerPool 'slots'"),
        (POOL.replace("{name: slots}", "{name: slots, namespace: other}"), "", "there is no WorkerPool 'slots'"),
        (POOL.replace("max: 6", "max: 0"), "", "spec.workers.min: 1 is above max (0)"),
        (POOL, "    - {name: own, class: cpu, max: 2}\n", "spec.workers: 'cpu' is there twice: put the pools of one"),
        (POOL, "    - {name: slots, class: gpu, max: 2}\n", "spec.workers: 'slots' is there twice: pool names must be"),
    ],
)
def test_a_cascade_that_does_not_fit_its_worker_pool_is_refused(pool: str, workers: str, says: str) -> None:
    cascade = ON_POOL.replace("  sizes:", f"{workers}  sizes:")
    assert says in problem_of(f"{PROFILE}---\n{cascade}---\n{pool}")


def test_an_entry_for_a_worker_pool_takes_nothing_that_the_pool_says() -> None:
    text = problem_of(f"{PROFILE}---\n{ON_POOL.replace('pool: slots,', 'pool: slots, hosting: shared,')}---\n{POOL}")
    assert text.startswith("cascade.yaml:21: spec.workers.0.hosting: goes with a pool of its own")


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        ("chain: [small, small], directPercent: 0, escalationPercent: 0", "chain: passes 'small' twice"),
        ("chain: [small, large], directPercent: 0", "escalationPercent: is missing: a chain of two has it"),
        ("chain: [small], directPercent: 0", "directPercent: 'small' is alone in its chain: leave it out"),
        ("chain: []", "chain: has 0, and needs at least 1"),
    ],
)
def test_a_chain_is_one_variant_or_two_with_their_shares(chain: str, says: str) -> None:
    given = "chain: [small, large], directPercent: 0, escalationPercent: 0"
    assert f"spec.quality.0.{says}" in problem_of(GOOD.replace(given, chain))


def test_all_problems_are_told_at_once() -> None:
    text = problem_of(GOOD.replace("steps: 20", "stepz: 20").replace("latency: 2s", "latency: two"))
    assert len(text.splitlines()) == 3  # unknown field, missing field, bad duration


def test_a_key_written_twice_is_refused() -> None:
    assert "is there twice" in problem_of(
        GOOD.replace("  objective: {latency: 2s}", "  objective: {latency: 2s}\n" * 2)
    )


@pytest.mark.parametrize(
    ("text", "line"), [(f"{PROFILE}---\n{CASCADE}---\n{CASCADE}", 37), (f"{GOOD}---\n{PROFILE}", 37)]
)
def test_a_resource_that_is_there_twice_is_refused(text: str, line: int) -> None:
    assert problem_of(text).startswith(f"cascade.yaml:{line}: metadata.name: ")
    assert "'shapes' is there twice: rename one or remove it" in problem_of(text)


def test_namesakes_in_two_namespaces_are_two() -> None:
    other = GOOD.replace("{name: shapes}\nspec", "{name: shapes, namespace: other}\nspec")
    assert len(load_cascades(f"{GOOD}---\n{other}", source="cascade.yaml").cascades) == 2


BILLIONS = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("added", "line", "what"),
    [
        ("name: 2025-13-45", 34, "'2025-13-45' is not of type timestamp: put it in quotes"),
        ("name: !!int foo", 34, "'foo' is not of type int"),
        ("name: !!bool foo", 34, "'foo' is not of type bool"),
        ("name: " + "1" * 5000, 34, "is not of type int"),
        ("name: 0x" + "f" * 5000, 34, "is not of type int"),
        ("? [a, b]\n: 1", 34, "unhashable key"),
        ("a: &a {scorer: *a}", 34, "alias 'a' is used inside its own definition"),
        ("a: " + "[" * 3000 + "]" * 3000, 34, "nested more than 64 levels deep"),
        ("x0: &x0 [1]\n" + BILLIONS, 39, "aliases stand for more than 100000 values"),
        ("name: !!python/name:os.system ", 34, "could not determine a constructor for the tag"),
        ("<<: 3", 34, "expected a mapping or list of mappings for merging"),
        ("name: \x00", 34, "unacceptable character"),
    ],
    ids=["date", "int", "bool", "digits", "hex", "key", "loop", "deep", "billions", "python", "merge", "nul"],
)
def test_yaml_that_no_value_can_be_made_of_is_one_line(added: str, line: int, what: str) -> None:
    text = problem_of(f"{GOOD}{added}\n")
    assert text.startswith(f"cascade.yaml:{line}: cannot be read as YAML: ")
    assert what in text
    assert len(text.splitlines()) == 1


def test_aliases_and_merges_within_reason_are_taken() -> None:
    text = GOOD + "  hardness: {<<: {scorer: coin-flip}}\n"
    text = text.replace("settings: {steps: 2}", "settings: &set {steps: 2}").replace("{steps: 20}", "*set")
    (cascade,) = load_cascades(text, source="cascade.yaml").cascades
    assert cascade.spec.hardness.scorer == "coin-flip"
    assert cascade.spec.variants[1].settings.steps == 2


def test_a_key_written_twice_in_what_an_alias_names_is_told_once() -> None:
    text = GOOD.replace("{steps: 20}", "*set").replace("{steps: 2}", "&set {steps: 2, steps: 3}")
    assert problem_of(text) == "cascade.yaml:26: spec.variants.0.settings.steps: is there twice: keep one"


def test_every_pattern_says_how_to_write_what_it_takes() -> None:
    patterns = {
        node["pattern"]
        for plural in PLURALS
        for path, node in walk(Definition.load(plural).schema)
        if "pattern" in node and not path.startswith("status")
    }
    assert patterns == {*FORMS, QUANTITY_PATTERN, METRIC_PATTERN}


@pytest.mark.parametrize("text", ["", "---\n", "- 1\n", "a: [", "\x00"])
def test_what_is_not_a_manifest_is_refused_in_words(text: str) -> None:
    assert problem_of(text).startswith("cascade.yaml")

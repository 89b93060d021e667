"""Every name and label is one that a cluster takes, for every release name that Helm takes; no two releases share one.

All lengths are looked at by rendering the chart's helpers alone; whole charts are rendered for the oddest names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import CHART, MONITORING, programs, run

pytestmark = pytest.mark.chart

PROGRAMS = programs()
LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NAMES = {
    "Service": ("[a-z]([-a-z0-9]*[a-z0-9])?", 63),
    # Its pods carry a label with its name and eleven characters more.
    "StatefulSet": (LABEL, 52),
    # What a pod is called is its host name too.
    "Deployment": (LABEL, 63),
    "Pod": (LABEL, 63),
}
ANY_NAME = (rf"{LABEL}(\.{LABEL})*", 253)
LABEL_VALUE = re.compile("([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LENGTHS = (
    [("a" * n) for n in range(1, 54)] + [("a-" * 27)[:n] for n in range(1, 54, 2)] + [f"x{'-' * n}x" for n in (1, 51)]
)
ODD = ["my.dotted", "1abc", "1", "9.9", "a.b.c", "1abc.diffusion-cascade", "a" * 40 + "." + "b" * 12, "0" * 53]
CASCADE_ONES = [
    "diffusion-cascade",
    "my-diffusion-cascade",
    "x" * 36 + "diffusion-cascade",
    "diffusion-cascade-" + "y" * 35,
]
RELEASES = [*LENGTHS, *ODD, *CASCADE_ONES]
EVERYTHING = {
    "watchNamespaces": ["n" * 63],
    "networkPolicy": {"enabled": True},
    "operator": {"serviceAccount": {"create": True}},
}


@pytest.fixture(params=PROGRAMS.values(), ids=PROGRAMS.keys(), scope="module")
def program(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def rendered(program: Path, release: str, values: dict[str, Any], directory: Path) -> list[dict[str, Any]]:
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    where = ["--namespace", "n" * 63, "--kube-version", "1.31.0", "--values", file, *MONITORING]
    done = run(program, "template", release, CHART, *where)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def names_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart that only says what the objects of many releases would be called."""
    chart = tmp_path_factory.mktemp("names")
    (chart / "templates").mkdir()
    shutil.copy(CHART / "Chart.yaml", chart)
    shutil.copy(CHART / "templates" / "_helpers.tpl", chart / "templates")
    root = '(dict "Values" $.Values "Chart" $.Chart "Release" (dict "Name" .))'
    line = f'{{{{ toJson . }}}}: {{{{ include "dc.fullname" {root} }}}}'
    (chart / "templates" / "names.yaml").write_text(f"{{{{- range .Values.releases }}}}\n{line}\n{{{{- end }}}}\n")
    return chart


def full_names(program: Path, chart: Path, **values: Any) -> dict[str, str]:
    """The beginning of all names, by release."""
    file = chart / "given.yaml"
    file.write_text(yaml.safe_dump({"releases": RELEASES, **values}))
    done = run(program, "template", "names", chart, "--values", file)
    assert done.returncode == 0, done.stderr
    return {str(release): str(name) for release, name in yaml.safe_load(done.stdout).items()}


def wrong_names(objects: list[dict[str, Any]]) -> Iterator[str]:
    """What a cluster would refuse of the names and labels, and of the names that objects call each other by."""
    for o in objects:
        where = f"{o['kind']} {o['metadata']['name']}"
        pattern, longest = NAMES.get(o["kind"], ANY_NAME)
        if not re.fullmatch(pattern, o["metadata"]["name"]) or len(o["metadata"]["name"]) > longest:
            yield where
        # What a definition describes has fields that are called labels.
        for labels in label_sets({"metadata": o["metadata"]} if o["kind"] == "CustomResourceDefinition" else o):
            yield from (f"{where}: label {value!r}" for value in labels.values() if not LABEL_VALUE.fullmatch(value))
    named = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for kind, name in references(objects):
        if (kind, name) not in named:
            yield f"no {kind} {name}"


def label_sets(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        for key, child in value.items():
            if key in ("labels", "matchLabels") and isinstance(child, dict):
                yield {name: str(text) for name, text in child.items()}
            yield from label_sets(child)
    elif isinstance(value, list):
        for child in value:
            yield from label_sets(child)


def references(objects: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for o in objects:
        spec = o.get("spec", {})
        pod = spec.get("template", {}).get("spec", {})
        if "serviceAccountName" in pod:
            yield "ServiceAccount", pod["serviceAccountName"]
        if "serviceName" in spec:
            yield "Service", spec["serviceName"]
        if "roleRef" in o:
            yield o["roleRef"]["kind"], o["roleRef"]["name"]
            yield from (("ServiceAccount", subject["name"]) for subject in o["subjects"])


def suffixes(program: Path, directory: Path) -> set[tuple[str, str]]:
    """Kind of object and what follows the full name, of all that the chart makes."""
    objects = rendered(program, "dc", {**EVERYTHING, "fullnameOverride": "full"}, directory)
    ours = [o for o in objects if o["kind"] != "CustomResourceDefinition"]
    assert all(o["metadata"]["name"].startswith("full") for o in ours)
    return {(o["kind"], o["metadata"]["name"].removeprefix("full")) for o in ours}


@pytest.mark.parametrize("name", ["", "x", "my.model", "1st", "n" * 52], ids=lambda name: name[:10])
def test_names_of_releases_of_every_length_are_valid_and_differ(
    program: Path, names_chart: Path, tmp_path: Path, name: str
) -> None:
    full = full_names(program, names_chart, nameOverride=name)
    assert full.keys() == set(RELEASES)
    for kind, suffix in suffixes(program, tmp_path):
        pattern, longest = NAMES.get(kind, ANY_NAME)
        for release, begin in full.items():
            whole = begin + suffix
            assert re.fullmatch(pattern, whole), (release, whole)
            assert len(whole) <= longest, (release, whole)
    assert len(set(full.values())) == len(full), "two releases would have objects of one name"


def test_an_ordinary_name_stays_as_it_is(program: Path, names_chart: Path) -> None:
    full = full_names(program, names_chart)
    assert full["aaa"] == "aaa-diffusion-cascade"
    assert full["my-diffusion-cascade"] == "my-diffusion-cascade"
    assert full["a" * 28] == "a" * 28 + "-diffusion-cascade"
    assert re.fullmatch("a{29}-diffusi-[0-9a-f]{8}", full["a" * 29])
    assert re.fullmatch("dc-1abc-diffusion-cascade-[0-9a-f]{8}", full["1abc"])


@pytest.mark.parametrize("release", ["a", "a" * 53, "1a.b", "0" * 53, "a" * 40 + "." + "b" * 12], ids=lambda r: r[:4])
@pytest.mark.parametrize("values", [{}, EVERYTHING, {"nameOverride": "1.x"}], ids=["default", "everything", "named"])
def test_all_that_is_made_has_valid_names_and_labels(
    program: Path, release: str, values: dict[str, Any], tmp_path: Path
) -> None:
    objects = rendered(program, release, values, tmp_path)
    assert len(objects) > 10
    assert list(wrong_names(objects)) == []


def test_a_name_that_a_cluster_refuses_would_be_noticed() -> None:
    labels = {"labels": {"a": "b" * 64}}
    service = {"kind": "Service", "metadata": {"name": "1abc", **labels}, "spec": {}}
    stateful = {"kind": "StatefulSet", "metadata": {"name": "a" * 53}, "spec": {"serviceName": "gone"}}
    assert len(list(wrong_names([service, stateful]))) == 4


@pytest.mark.parametrize("override", ["a" * 46, "a", "my-own"])
def test_a_full_name_of_one_s_own_is_taken_as_it_is(program: Path, override: str, tmp_path: Path) -> None:
    objects = rendered(program, "dc", {**EVERYTHING, "fullnameOverride": override}, tmp_path)
    assert f"{override}-router-metrics" in {o["metadata"]["name"] for o in objects if o["kind"] == "Service"}
    assert list(wrong_names(objects)) == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *[(f"fullnameOverride={'a' * length}", "46") for length in (47, 52, 53)],
        *[
            (f"fullnameOverride={name}", "[a-z]([-a-z0-9]*[a-z0-9])?")
            for name in ("my.dotted", "1abc", "a-", "-a", "A")
        ],
        *[(f"nameOverride={name}", "pattern") for name in ("a..b", ".a", "a-")],
        ("operator.serviceAccount.name=a..b", "pattern"),
        ("commonLabels.team=a b", "pattern"),
        ("router.nodeSelector.zone=" + "z" * 64, "63"),
    ],
)
def test_what_cannot_be_a_name_is_refused_with_the_reason(program: Path, value: str, reason: str) -> None:
    done = run(program, "template", "dc", CHART, "--set-string", value)
    assert done.returncode != 0
    assert value.partition(".")[0].partition("=")[0] in done.stderr
    assert reason in done.stderr


def test_a_key_that_no_label_has_is_refused(program: Path) -> None:
    done = run(program, "template", "dc", CHART, "--set-string", "router.podLabels.te am=a")
    assert done.returncode != 0
    assert "te am" in done.stderr

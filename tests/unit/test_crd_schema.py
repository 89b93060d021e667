"""The committed CustomResourceDefinitions are valid for an API server: structural, bounded, small, readable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from cascade_api.documents import load_documents
from support.crd import CRDS, PLURALS, VALIDATIONS, Definition, broken_rules, walk

ROOT = CRDS.parent
LARGEST = 200_000
"""Bytes; a definition has to fit into the annotation of `kubectl apply`, and into a Helm release with the rest."""


@pytest.fixture(params=PLURALS)
def plural(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_committed_definitions_are_what_the_models_say() -> None:
    run = subprocess.run([sys.executable, CRDS / "generate.py", "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_node_is_structural_and_bounded(plural: str) -> None:
    definition = Definition.load(plural)
    for path, node in walk(definition.schema):
        if node.get("x-kubernetes-int-or-string"):
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], f"{path}: the only union admitted"
            continue
        assert node.get("type") in ("object", "array", "string", "integer", "boolean"), (
            f"{path} has no type, or a float"
        )
        assert not {"$ref", "anyOf", "oneOf", "allOf", "not", "title", "nullable"} & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if path.startswith("spec") and node["type"] == "array":
            assert "maxItems" in node, path
        if path.startswith("spec") and node["type"] == "object" and "additionalProperties" in node:
            assert "maxProperties" in node, path
        keys = node.get("x-kubernetes-list-map-keys", [])
        if keys:
            assert set(keys) <= set(node["items"]["required"]), path


def test_defaults_are_valid_as_they_stand(plural: str) -> None:
    """An API server holds a default against schema and rules before it fills what the default leaves out."""
    for path, node in walk(Definition.load(plural).schema):
        if "default" in node:
            jsonschema.validate(node["default"], node)
            assert list(broken_rules(node, node["default"], None)) == [], path


def test_nothing_unknown_is_kept(plural: str) -> None:
    """It could be nested so deep that no client reads a list with it, the operator's least of all."""
    for path, node in walk(Definition.load(plural).schema):
        assert "x-kubernetes-preserve-unknown-fields" not in node, path


def test_what_rules_walk_has_bounds_that_keep_them_cheap(plural: str) -> None:
    """An API server refuses a definition whose rules might cost too much; strings and lists in reach need bounds."""
    for path, node in walk(Definition.load(plural).schema):
        if node.get(VALIDATIONS):
            for below, child in walk(node):
                if child.get("type") == "string" and not below.endswith("{}"):
                    assert "maxLength" in child or "enum" in child, f"{path}.{below}"


def test_it_is_small(plural: str) -> None:
    assert (CRDS / f"{plural}.yaml").stat().st_size < LARGEST


def test_kubectl_shows_what_runs_and_why() -> None:
    version = Definition.load("diffusioncascades").document["spec"]["versions"][0]
    shown = [column["name"].upper() for column in version["additionalPrinterColumns"]]
    assert shown == ["READY", "REASON", "CHAIN", "REPLICAS", "SLO", "COST/H", "AGE"]
    assert version["subresources"] == {"status": {}}, "a cascade has many pools: no scale subresource"


def test_names_for_kubectl(plural: str) -> None:
    short = {"diffusioncascades": "dcas", "cascadeprofiles": "cprof", "workerpools": "wpool"}
    names = Definition.load(plural).document["spec"]["names"]
    assert names["shortNames"] == [short[plural]]
    assert names["categories"] == ["cascades"]


def test_a_status_of_a_newer_operator_is_taken_by_an_older_definition(plural: str) -> None:
    status = Definition.load(plural).schema["properties"]["status"]
    for path, node in walk(status):
        assert "enum" not in node, path
        assert "default" not in node, path
    assert status["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_taken_by_models_and_definitions(example: Path) -> None:
    text = example.read_text()
    assert load_documents(text, source=example.name)
    by_kind = {Definition.load(p).document["spec"]["names"]["kind"]: Definition.load(p) for p in PLURALS}
    for document in yaml.safe_load_all(text):
        assert by_kind[document["kind"]].problems(document) == []

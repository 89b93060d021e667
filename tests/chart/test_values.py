"""Values are checked: a misspelt or impossible one is refused with its name, and each is described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import CHART, programs, run

pytestmark = pytest.mark.chart

PROGRAMS = programs()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("router.replica=3", "replica"),
        ("routers.replicas=3", "routers"),
        ("router.replicas=1", "replicas"),
        ("router.image.repo=x", "repo"),
        ("operator.resources.request.cpu=1", "request"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("redis.url=http://redis:6379", "url"),
        ("redis.bundled.maxMemory=10", "maxMemory"),
        ("acceleratorClasses[0].name=gpu", "resource"),
        ("acceleratorClasses[0].name=gpu,acceleratorClasses[0].resource=r,acceleratorClasses[0].price=1", "price"),
        ("watchNamespaces[0]=Not_A_Namespace", "watchNamespaces"),
        ("networkPolicy.apiServer.cidrs[0]=everywhere", "cidrs"),
        ("operator.image.digest=latest", "digest"),
        ("test.address=nowhere", "address"),
    ],
)
def test_a_wrong_value_is_refused_by_name(program: Path, value: str, named: str) -> None:
    done = run(program, "template", "dc", CHART, "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


def test_notes_name_the_next_command() -> None:
    """Helm 3 shows notes only where it reaches a cluster."""
    done = run(PROGRAMS["helm4"], "install", "dc", CHART, "--dry-run=client", "--namespace", "media")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "kubectl apply -f examples/shapes.yaml" in notes
    assert "helm test dc -n media --logs" in notes


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "$ref" in schema:
        schema = {**SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], **schema}
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".lstrip("."))


def test_no_object_of_the_schema_takes_unknown_keys() -> None:
    for path, schema in nodes(SCHEMA):
        if "properties" in schema:
            assert schema.get("additionalProperties") is False, path


def test_every_value_is_described() -> None:
    parents = {path for path, schema in nodes(SCHEMA) if "properties" in schema}
    assert not [path for path, schema in nodes(SCHEMA) if path not in parents and not schema.get("description")]


def test_values_and_schema_name_the_same() -> None:
    known = {path for path, schema in nodes(SCHEMA) if path and "properties" in schema}
    given = set(objects(yaml.safe_load((CHART / "values.yaml").read_text())))
    assert known - given == {path for path in known if path.endswith(".resources")} - given
    for path, schema in nodes(SCHEMA):
        if "properties" in schema and not path.endswith("resources"):
            value = yaml.safe_load((CHART / "values.yaml").read_text())
            for step in filter(None, path.split(".")):
                value = value[step]
            assert schema["properties"].keys() - {"global"} == value.keys(), path


def objects(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if path:
            yield path
        for key, child in value.items():
            yield from objects(child, f"{path}.{key}".lstrip("."))

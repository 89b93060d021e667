"""Values are checked: a misspelt or impossible one is refused with its name, and each is described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from support.helm import CHART, MONITORING, environment, pod_specs, programs, render, run, without_secrets

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
        ("router.bucket.name=images,router.bucket.endpoint=s3.example", "endpoint"),
        ("router.bucket.linkSeconds=0", "linkSeconds"),
    ],
)
def test_a_wrong_value_is_refused_by_name(program: Path, value: str, named: str) -> None:
    done = run(program, "template", "dc", CHART, "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_headless_service_has_no_ports_of_its_own(program: Path) -> None:
    """Its name stands for the pods' addresses, so a client would find nothing on another port."""
    done = run(program, "template", "dc", CHART, "--set", "router.service.clusterIP=None,router.service.grpcPort=9001")
    assert done.returncode != 0
    assert "leave out grpcPort and httpPort" in done.stderr


VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PLATFORM_S_CHOICE = ("securityContext", "metrics.dashboard.labels")
"""What may be absent although the chart sets it; so may resources."""


def paths(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of the chart with its default, maps included."""
    for key, child in value.items():
        yield f"{path}{key}", child
        if isinstance(child, dict):
            yield from paths(child, f"{path}{key}.")


def may_be_absent(path: str, default: Any) -> bool:
    if path.endswith(".image.tag") or path == "networkPolicy.enabled":
        return False
    return free(path) or default in ("", None, False, {}, [])


def free(path: str) -> bool:
    return path.startswith(PLATFORM_S_CHOICE) or "resources" in path.split(".")


ABSENT = [path for path, default in paths(VALUES) if may_be_absent(path, default)]
NEEDED = [path for path, default in paths(VALUES) if not may_be_absent(path, default)]


def nulls(chosen: Iterable[str]) -> list[str]:
    return [word for path in chosen for word in ("--set", f"{path}=null")]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("depth", range(1, 6))
def test_null_for_a_value_that_is_needed_is_refused_by_name(program: Path, depth: int) -> None:
    chosen = [path for path in NEEDED if path.count(".") + 1 == depth]
    done = run(program, "template", "dc", CHART, *nulls(chosen))
    assert bool(done.returncode) == bool(chosen)
    assert "nil pointer" not in done.stderr
    # All of them are named in one message, each by its own key.
    missing = re.findall(r"(\w+) is required|'(\w+)'", done.stderr)
    assert {path.rpartition(".")[2] for path in chosen} <= {name for pair in missing for name in pair}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_null_for_a_value_that_is_empty_changes_nothing(program: Path) -> None:
    empty = [path for path in ABSENT if not free(path)]
    assert len(empty) > 50
    everything = ("--set", "networkPolicy.enabled=true", *MONITORING)
    plain = render(program, *everything, values={"redis": {"url": "redis://r:6379/0"}})
    # That Redis is given by its URL is no default.
    others = [path for path in empty if path != "redis.url"]
    assert render(program, *everything, *nulls(others), values={"redis": {"url": "redis://r:6379/0"}}) == plain


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_null_leaves_the_users_to_the_platform(program: Path) -> None:
    keys = [f"securityContext.{key}" for key in VALUES["securityContext"]]
    without, with_null_keys = (without_secrets(render(program, *nulls(path))) for path in (["securityContext"], keys))
    assert with_null_keys == without
    specs = pod_specs(without)
    assert all(spec["securityContext"].keys() == {"runAsNonRoot", "seccompProfile"} for spec in specs.values())
    passed = environment(specs["Deployment/dc-diffusion-cascade-operator"])["CASCADE_OPERATOR_POD_USER"]["value"]
    assert passed == "{}"


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("depth", range(2, 7))
def test_null_for_resources_and_their_parts_asks_for_none(program: Path, depth: int) -> None:
    chosen = [path for path in ABSENT if "resources" in path.split(".") and path.count(".") + 1 == depth]
    objects = render(program, *nulls(chosen))
    for o in objects:
        if o["kind"] in ("Deployment", "StatefulSet"):
            kubernetes_validate.validate(o, "1.31", strict=True)
    if "router.resources" in chosen:
        (container,) = pod_specs(objects)["Deployment/dc-diffusion-cascade-router"]["containers"]
        assert container["resources"] == {}


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

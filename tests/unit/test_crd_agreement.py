"""The models and an API server accept the same objects, so command line and cluster give the same answer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cascade_api.cascade import DiffusionCascade, identity_problems
from cascade_api.profile import CascadeProfile
from cascade_api.workers import WorkerPool, pool_identity_problems
from support.crd import Definition, defaulted
from support.crd_cases import CASES, DOCUMENTS, POOL
from support.resources import ABSENT, cascade_document, edited, pool_document, profile_document, shared_document

Path = tuple[str | int, ...]
KINDS: dict[str, tuple[dict[str, Any], type[BaseModel], Definition]] = {
    "cascade": (cascade_document(), DiffusionCascade, Definition.load("diffusioncascades")),
    "profile": (profile_document(), CascadeProfile, Definition.load("cascadeprofiles")),
    "pool": (pool_document(), WorkerPool, Definition.load("workerpools")),
    "cascade on a shared pool": (shared_document(), DiffusionCascade, Definition.load("diffusioncascades")),
}
STRANGE: list[Any] = [
    -1, 0, 1, 2, 21, 101, 300, 1025, 10**14, True, 1.5, "", "1", "0s", "5m", "1 s", "Upper", "a" * 41, "a" * 300,
    "light", "heavy", "cpu", "nvidia-l40s", "rules", "learned", "tensorrt", "paused", "min", "hf://a/b", "http://a",
    "12.50", "12.123456", [], {}, ["cpu"], ["cpu", "cpu"], [1, 2], {"cpu": 1}, {"fid": 1}, {"a": "b"}, "99999999999h",
]  # fmt: skip


def places(value: Any, path: Path = ("spec",)) -> Iterator[Path]:
    """The path of every part of a document below its spec."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def model_takes(kind: str, document: dict[str, Any]) -> bool:
    try:
        KINDS[kind][1].model_validate(document)
    except ValidationError:
        return False
    return True


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """A good document with one to three parts replaced, removed, repeated or added."""
    document = KINDS[kind][0]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(document["spec"]) if len(p) > 1]))
        document = copy.deepcopy(document)
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        match draw(st.sampled_from(["replace", "remove", "repeat", "add"])):
            case "replace":
                at[path[-1]] = draw(st.sampled_from(STRANGE))
            case "remove":
                del at[path[-1]]
            case "repeat" if isinstance(at, list):
                at.append(copy.deepcopy(at[path[-1]]))
            case _ if isinstance(at, dict):
                at["added"] = draw(st.sampled_from(STRANGE))
    return document


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(data=st.data())
def test_models_and_definitions_agree_on_mutations(kind: str, data: st.DataObject) -> None:
    document = data.draw(mutated(kind))
    refused = KINDS[kind][2].problems(document)
    assert model_takes(kind, document) == (not refused), refused


@pytest.mark.parametrize("kind", KINDS)
def test_models_and_definitions_agree_on_every_field(kind: str) -> None:
    good, _, definition = KINDS[kind]
    assert model_takes(kind, good)
    assert definition.problems(good) == []
    for path in places(good["spec"]):
        for value in (ABSENT, *STRANGE[::4]):
            document = edited(good, {".".join(map(str, path)): value})
            refused = definition.problems(document)
            assert model_takes(kind, document) == (not refused), f"{path} = {value!r}: {refused}"


@pytest.mark.parametrize("name", ["a", "a-1", "A", "a.b", "-a", "a" * 63, "a" * 64, "a_b"])
def test_models_and_definitions_agree_on_names(name: str) -> None:
    document = edited(cascade_document(), {"metadata.name": name})
    assert model_takes("cascade", document) == (not KINDS["cascade"][2].problems(document))


def test_defaults_are_the_models_own() -> None:
    document = edited(
        cascade_document(),
        {f"spec.{part}": ABSENT for part in ("hardness", "policy", "workers.0.podTemplate", "workers.0.modelCache")},
    )
    filled = defaulted(KINDS["cascade"][2].schema, document)
    assert filled["spec"]["policy"]["weight"] == 100
    assert DiffusionCascade.model_validate(filled).spec == DiffusionCascade.model_validate(document).spec


UPDATES = [(case.plural, edits, True) for case in CASES if case.update for edits in case.bad]
UPDATES += [(case.plural, edits, False) for case in CASES if case.update for edits in case.good]


@pytest.mark.parametrize(("plural", "edits", "changes_identity"), UPDATES)
def test_the_operator_refuses_the_updates_that_an_api_server_does(
    plural: str, edits: dict[str, Any], changes_identity: bool
) -> None:
    before = DOCUMENTS[plural]()
    documents = (before, edited(before, edits))
    if plural == POOL:
        pool, changed = (WorkerPool.model_validate(document).spec for document in documents)
        problems = pool_identity_problems(pool, changed)
    else:
        cascade, other = (DiffusionCascade.model_validate(document).spec for document in documents)
        problems = identity_problems(cascade, other)
    assert bool(problems) == changes_identity

"""Reads resources from YAML. Every problem is reported with its file, line and field, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .base import NAME_PATTERN
from .cascade import DiffusionCascade, PoolMismatch
from .failures import CommandFailed
from .names import API_VERSION
from .nodes import compose, construct, explain
from .pod_values import LABEL_VALUE_PATTERN, MOUNT_PATH_PATTERN, OBJECT_NAME_PATTERN, RELATIVE_PATH_PATTERN
from .profile import CascadeProfile, contradictions, profile_problems
from .quantities import DURATION_FORM, DURATION_PATTERN, MONEY_PATTERN, NUMBER_PATTERN, SIZE_PATTERN
from .variants import (
    ADAPTER_FILE_PATTERN,
    ADAPTER_SCALE_PATTERN,
    ADAPTER_SOURCE_PATTERN,
    REVISION_PATTERN,
    SOURCE_PATTERN,
)
from .workers import WorkerPool

Resource = DiffusionCascade | CascadeProfile | WorkerPool
KINDS: Mapping[str, type[DiffusionCascade] | type[CascadeProfile] | type[WorkerPool]] = {
    "DiffusionCascade": DiffusionCascade,
    "CascadeProfile": CascadeProfile,
    "WorkerPool": WorkerPool,
}

FORMS: Mapping[str, str] = {
    DURATION_PATTERN: DURATION_FORM,
    MONEY_PATTERN: "an amount: write digits, such as 60.00",
    NUMBER_PATTERN: 'a number in quotes: write one such as "4.5"',
    SIZE_PATTERN: "a size: write width and height in pixels, such as 1024x768",
    NAME_PATTERN: "a name: write lower-case letters, digits and dashes, such as sd35-large",
    SOURCE_PATTERN: "a source: write builtin://NAME, hf://OWNER/REPOSITORY or file:///PATH",
    ADAPTER_SOURCE_PATTERN: "an adapter's source: write hf://OWNER/REPOSITORY or file:///PATH",
    ADAPTER_FILE_PATTERN: "a safetensors file: write its path in the source, such as ink.safetensors",
    ADAPTER_SCALE_PATTERN: 'a scale above 0 and below 10, in quotes: write one such as "0.8"',
    REVISION_PATTERN: "a revision: write a commit, or a digest of weights",
    OBJECT_NAME_PATTERN: "an object's name: write lower-case letters, digits, dashes and dots, such as hf-token",
    LABEL_VALUE_PATTERN: "a label's value: write letters, digits, dashes, dots and underscores, such as team-red",
    MOUNT_PATH_PATTERN: "a path from the root without . and ..: write one such as /mnt/data",
    RELATIVE_PATH_PATTERN: "a relative path without . and ..: write one such as certificates/ca.pem",
}
"""For each pattern: what a string of this form is, and how to write one."""

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class DocumentProblem:
    """One problem of a document; ``line`` begins at 1, and 0 means unknown."""

    source: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class DocumentError(CommandFailed, ValueError):
    """A file cannot be used; ``problems`` has everything that is wrong with it."""

    def __init__(self, problems: list[DocumentProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), code=2)
        self.problems = problems


@dataclass(frozen=True)
class CascadeFile:
    """The cascades of a file, and the profiles and WorkerPools that they name.

    The workers of each cascade say what its WorkerPools say (`CascadeSpec.on_pools`).
    """

    cascades: list[DiffusionCascade]
    profiles: list[CascadeProfile]
    pools: list[WorkerPool] = field(default_factory=list)

    def profile_of(self, cascade: DiffusionCascade) -> CascadeProfile:
        """The profile that a cascade names; raises KeyError if the file lacks it (never after `load_cascades`)."""
        for profile in self.profiles:
            same_place = profile.metadata.namespace == cascade.metadata.namespace
            if same_place and profile.metadata.name == cascade.spec.profile_ref.name:
                return profile
        raise KeyError(cascade.spec.profile_ref.name)


def load_documents(text: str, *, source: str) -> list[Resource]:
    """The resources of a YAML text; the workers of its cascades say what the text's WorkerPools say.

    Raises DocumentError, which has all problems of all documents.
    """
    return [resource for resource, _ in _parse(text, source)]


def load_cascades(text: str, *, source: str) -> CascadeFile:
    """The cascades, profiles and WorkerPools of a YAML text, checked against each other.

    Raises DocumentError, also if the profile or a WorkerPool of a cascade is missing, or does not fit it.
    """
    parsed = _parse(text, source)
    file = CascadeFile(
        cascades=[r for r, _ in parsed if isinstance(r, DiffusionCascade)],
        profiles=[r for r, _ in parsed if isinstance(r, CascadeProfile)],
        pools=[r for r, _ in parsed if isinstance(r, WorkerPool)],
    )
    problems: list[DocumentProblem] = []
    if not file.cascades:
        problems.append(DocumentProblem(source, 0, "kind", "holds no DiffusionCascade: add one"))
    for resource, node in parsed:
        if isinstance(resource, CascadeProfile):
            for path, message in contradictions(resource.spec):
                problems.append(DocumentProblem(source, _line(node, _split(path)), path, message))
        if not isinstance(resource, DiffusionCascade):
            continue
        try:
            profile = file.profile_of(resource)
        except KeyError:
            name = resource.spec.profile_ref.name
            found = [
                (
                    "spec.profileRef.name",
                    f"no CascadeProfile {name!r} in namespace {resource.metadata.namespace!r}: add it to the file",
                )
            ]
        else:
            found = profile_problems(resource.spec, profile.spec)
        for path, message in found:
            problems.append(DocumentProblem(source, _line(node, _split(path)), path, message))
    if problems:
        raise DocumentError(problems)
    return file


def read_resource(value: Mapping[str, Any], *, source: str) -> Resource:
    """A resource from the JSON of an API server; raises DocumentError, whose problems have no lines."""
    found = _resource(dict(value), None, source)
    if isinstance(found, list):
        raise DocumentError(found)
    return found


def _parse(text: str, source: str) -> list[tuple[Resource, yaml.Node]]:
    try:
        nodes = compose(text)
    except yaml.YAMLError as error:
        raise DocumentError([_unreadable(error, text, source)]) from None
    if not nodes:
        raise DocumentError([DocumentProblem(source, 0, "", "is empty: it should hold a DiffusionCascade")])
    problems: list[DocumentProblem] = []
    resources: list[tuple[Resource, yaml.Node]] = []
    for node in nodes:
        problems.extend(_duplicate_keys(node, source, (), set()))
        try:
            value = construct(node)
        except yaml.YAMLError as error:
            problems.append(_unreadable(error, text, source))
            continue
        found = _resource(value, node, source)
        if isinstance(found, list):
            problems.extend(found)
        else:
            resources.append((found, node))
    problems.extend(_namesakes(resources, source))
    pools = [resource for resource, _ in resources if isinstance(resource, WorkerPool)]
    for index, (resource, node) in enumerate(resources):
        if isinstance(resource, DiffusionCascade):
            try:
                resources[index] = _on_pools(resource, pools), node
            except PoolMismatch as error:
                where = f"spec.{error.field}"
                problems.append(DocumentProblem(source, _line(node, _split(where)), where, error.message))
    if problems:
        raise DocumentError(problems)
    return resources


def _on_pools(cascade: DiffusionCascade, pools: list[WorkerPool]) -> DiffusionCascade:
    """The cascade with what the WorkerPools of its namespace say; raises PoolMismatch."""
    here = {pool.metadata.name: pool.spec for pool in pools if pool.metadata.namespace == cascade.metadata.namespace}
    return cascade.model_copy(update={"spec": cascade.spec.on_pools(here)})


def _unreadable(error: yaml.YAMLError, text: str, source: str) -> DocumentProblem:
    line, cause = explain(error, text)
    return DocumentProblem(source, line, "", f"cannot be read as YAML: {cause}")


def _namesakes(resources: list[tuple[Resource, yaml.Node]], source: str) -> Iterator[DocumentProblem]:
    """A problem for each resource that has the kind, namespace and name of an earlier one."""
    seen: set[tuple[str, str, str]] = set()
    for resource, node in resources:
        identity = (resource.kind, resource.metadata.namespace, resource.metadata.name)
        if identity in seen:
            message = f"{resource.kind} {resource.metadata.name!r} is there twice: rename one or remove it"
            yield DocumentProblem(source, _line(node, ("metadata", "name")), "metadata.name", message)
        seen.add(identity)


def _resource(value: Any, node: yaml.Node | None, source: str) -> Resource | list[DocumentProblem]:
    line = _line(node, ())
    if not isinstance(value, dict):
        return [DocumentProblem(source, line, "", "is not a mapping: it should be a resource with apiVersion and kind")]
    if value.get("apiVersion") != API_VERSION:
        line = _line(node, ("apiVersion",))
        return [
            DocumentProblem(
                source, line, "apiVersion", f"{_short(value.get('apiVersion'))} is not known: write {API_VERSION}"
            )
        ]
    kind = value.get("kind")
    model = KINDS.get(str(kind))
    if model is None:
        line = _line(node, ("kind",))
        return [DocumentProblem(source, line, "kind", f"{_short(kind)} is not known: write one of {', '.join(KINDS)}")]
    try:
        return model.model_validate(value)
    except ValidationError as error:
        return [_problem(detail, model, node, source) for detail in error.errors()]


def _problem(detail: Any, model: type[BaseModel], node: yaml.Node | None, source: str) -> DocumentProblem:
    path: Path = tuple(detail["loc"])
    message = str(detail["msg"])
    kind = detail["type"]
    if kind == "cross_field":
        path = path + _split(detail["ctx"]["field"])
    elif kind == "extra_forbidden":
        known = _known_fields(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        message = f"unknown field; {hint}"
    elif kind == "missing":
        message = "is required: add it"
    elif kind == "string_pattern_mismatch":
        message = f"{_short(detail['input'])} is not {FORMS[detail['ctx']['pattern']]}"
    elif kind == "too_short":
        least = detail["ctx"]["min_length"]
        message = f"has {len(detail['input'])}, and needs at least {least}: add {least - len(detail['input'])}"
    elif kind == "too_long":
        most = detail["ctx"]["max_length"]
        message = f"has {len(detail['input'])}, and may have at most {most}: remove {len(detail['input']) - most}"
    elif kind == "invalid_key":
        message = f"{_short(detail['input'])} is not text: put the key in quotes"
    else:
        message = f"{message[0].lower()}{message[1:]} (is {_short(detail['input'])})"
    return DocumentProblem(source, _line(node, path), ".".join(str(step) for step in path), message)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_fields(model: type[BaseModel], path: Path) -> list[str]:
    """The names of the fields at ``path`` below ``model``, in camelCase."""
    current: Any = model
    for step in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        if isinstance(step, int):
            continue
        for name, known in current.model_fields.items():
            if step in (name, known.alias):
                current = _inner_model(known.annotation)
                break
        else:
            return []
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        return []
    return sorted(str(field.alias or name) for name, field in current.model_fields.items())


def _inner_model(annotation: Any) -> Any:
    """The model M of an annotation such as ``list[M]``, ``M | None`` or ``M``; None if it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _inner_model(part)
        if found is not None:
            return found
    return None


def _split(field: str) -> Path:
    return tuple(int(step) if step.isdecimal() else step for step in field.split("."))


def _line(node: yaml.Node | None, path: Path) -> int:
    """The line of the node at ``path``, or of its nearest ancestor that exists; 1 is the first, 0 means no text."""
    if node is None:
        return 0
    line = node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _duplicate_keys(node: yaml.Node, source: str, path: Path, walked: set[int]) -> Iterator[DocumentProblem]:
    """A problem for each key that a mapping has twice. A node that aliases repeat is only checked once."""
    if id(node) in walked:
        return
    walked.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # such a mapping is refused when it is constructed
            here = (*path, key.value)
            if key.value in seen:
                yield DocumentProblem(
                    source, key.start_mark.line + 1, ".".join(map(str, here)), "is there twice: keep one"
                )
            seen.add(key.value)
            yield from _duplicate_keys(value, source, here, walked)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicate_keys(value, source, (*path, index), walked)

"""Writes a profile into a YAML file. The rest of the file, including comments, stays as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed, read_text
from cascade_api.nodes import compose, construct, explain
from cascade_api.profile import CascadeProfile

HEADER = "# Made by `cascade profile`.\n"
WIDTH = 160


def check_output(file: Path) -> None:
    """Raise CommandFailed if the file exists and no profile can be written into it."""
    if not file.exists():
        return
    text = read_text(file, option="--output")
    try:
        for node in compose(text):
            construct(node)
    except yaml.YAMLError as error:
        line, cause = explain(error, text)
        problem = f"--output: {file}:{line}: cannot be read as YAML: {cause}"
        raise CommandFailed(f"{problem}; name a manifest or a new file", code=2) from None


def write_profile(profile: CascadeProfile, file: Path) -> None:
    """Replace the profile of that name in a file, or add it; the file is created if it is missing. Atomic."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    write_whole(with_profile(before, profile), file.resolve())  # a link stays one


def write_whole(text: str, file: Path) -> None:
    """Write a file in one step: whoever reads it finds the old content or the new one."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def with_profile(text: str, profile: CascadeProfile) -> str:
    """The text in which ``profile`` replaces the document of its kind and name, or is appended."""
    return with_document(text, profile, HEADER + profile_yaml(profile))


def with_document(text: str, document: CascadeProfile | DiffusionCascade, fresh: str) -> str:
    """The text in which ``fresh`` replaces the document with the kind and name of ``document``, or is appended."""
    parts = _split(text)
    for index, part in enumerate(parts):
        if _is(part, document):
            parts[index] = fresh
            break
    else:
        parts.append(fresh)
    return "---\n".join(part if part.endswith("\n") else part + "\n" for part in parts)


def profile_yaml(profile: CascadeProfile) -> str:
    """A profile as YAML with one line per measurement."""
    wire = profile.wire()
    for field, value in wire["spec"].items():
        if isinstance(value, list):
            wire["spec"][field] = [_Line(row) if isinstance(row, dict) else row for row in value]
    wire["metadata"] = {key: value for key, value in wire["metadata"].items() if key in ("name", "namespace")}
    wire["spec"]["scores"] = {
        key: _Series(value) if isinstance(value, list) else {name: _Series(points) for name, points in value.items()}
        for key, value in wire["spec"].get("scores", {}).items()
    }
    return yaml.dump(wire, Dumper=_Dumper, sort_keys=False, width=WIDTH)


def _split(text: str) -> list[str]:
    """The documents of a YAML text, unchanged; they are separated by lines of three dashes."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if line.rstrip() == "---":
            parts.append([])
        else:
            parts[-1].append(line)
    joined = ["".join(part) for part in parts]
    return [part for part in joined if part.strip()]


def _is(part: str, document: CascadeProfile | DiffusionCascade) -> bool:
    found: Any = yaml.safe_load(part)
    if not isinstance(found, dict) or found.get("kind") != document.kind:
        return False
    metadata = found.get("metadata") or {}
    identity = (metadata.get("namespace", "default"), metadata.get("name"))
    return identity == (document.metadata.namespace, document.metadata.name)


class _Line(dict[str, Any]):
    """A mapping to be written on one line."""


class _Series(list[int]):
    """A list to be written on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes lines and series, and all that they contain, in flow style."""


def _represent_line(dumper: yaml.SafeDumper, value: _Line) -> yaml.Node:
    inner = {key: _Line(item) if isinstance(item, dict) else item for key, item in value.items()}
    return dumper.represent_mapping("tag:yaml.org,2002:map", inner.items(), flow_style=True)


def _represent_series(dumper: yaml.SafeDumper, value: _Series) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(_Line, _represent_line)
_Dumper.add_representer(_Series, _represent_series)

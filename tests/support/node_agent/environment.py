"""A container's environment variables and command line, from its manifest (pure)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

Object = dict[str, Any]
Fetch = Callable[[str, str], Object | None]
"""Gives a ConfigMap or Secret of the pod's namespace by kind (``configmaps``, ``secrets``) and name."""

_REFERENCE = re.compile(r"\$\$|\$\(([-._A-Za-z0-9]+)\)")


class Missing(Exception):
    """Something that the pod refers to does not exist; the kubelet waits for it."""


def data_of(fetch: Fetch, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret. Raises Missing."""
    found = fetch(kind, name)
    if found is None:
        if optional:
            return {}
        raise Missing(f"{kind} {name!r} not found")
    if kind == "secrets":
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return {key: value.encode() for key, value in (found.get("data") or {}).items()} | binary


def field_of(pod: Object, path: str) -> str:
    """A field of the downward API, such as ``status.podIP`` or ``metadata.labels['app']``."""
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str((pod["metadata"].get(keyed[1]) or {}).get(keyed[2], ""))
    value: Any = pod
    for part in path.split("."):
        value = value.get(part) or {}
    return str(value) if value != {} else ""


def variables(container: Object, pod: Object, fetch: Fetch, given: Mapping[str, str]) -> dict[str, str]:
    """All variables of a container, ``given`` ones first. Raises Missing."""
    values = dict(given)
    for source in container.get("envFrom") or ():
        for key, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if key in source:
                reference = source[key]
                entries = data_of(fetch, kind, reference["name"], optional=reference.get("optional", False))
                values |= {source.get("prefix", "") + name: value.decode() for name, value in entries.items()}
    for entry in container.get("env") or ():
        if "valueFrom" not in entry:
            values[entry["name"]] = expand(entry.get("value", ""), values)
            continue
        value = _value_from(entry["valueFrom"], pod, fetch)
        if value is not None:
            values[entry["name"]] = value
    return values


def command_line(container: Object, entrypoint: list[str], values: Mapping[str, str]) -> list[str]:
    """The command with its arguments."""
    command = container.get("command") or entrypoint
    return [expand(word, values) for word in [*command, *(container.get("args") or ())]]


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` with the variable's value and ``$$`` with ``$``; unknown names stay as they are."""
    return _REFERENCE.sub(lambda match: values.get(match[1], match[0]) if match[1] else "$", text)


def _value_from(source: Object, pod: Object, fetch: Fetch) -> str | None:
    if "fieldRef" in source:
        return field_of(pod, source["fieldRef"]["fieldPath"])
    for key, kind in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if key in source:
            reference = source[key]
            optional = reference.get("optional", False)
            entries = data_of(fetch, kind, reference["name"], optional=optional)
            if reference["key"] in entries:
                return entries[reference["key"]].decode()
            if optional:
                return None
            raise Missing(f"{kind} {reference['name']!r} has no key {reference['key']!r}")
    raise Missing(f"the node agent knows no value from {', '.join(source)}")

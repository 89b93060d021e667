"""Does what an API server does with a custom resource, by the committed definition: sets defaults, then validates.

Types and bounds go through jsonschema, CEL rules through a CEL evaluator with the list functions that Kubernetes adds;
unknown fields are refused, as kubectl asks for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cel
import jsonschema
import yaml

CRDS = Path(__file__).resolve().parents[2] / "crds"
PLURALS = ("diffusioncascades", "cascadeprofiles", "workerpools")
"""The kinds of resources, as their definitions name them."""
VALIDATIONS = "x-kubernetes-validations"
METADATA = {"name", "namespace", "generation", "labels", "annotations", "uid", "resourceVersion", "managedFields"}

Schema = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One CEL rule and the field path whose value it sees as ``self``."""

    path: str
    expression: str
    message: str


@dataclass(frozen=True)
class Definition:
    """A CustomResourceDefinition as committed."""

    document: dict[str, Any]

    @classmethod
    def load(cls, plural: str) -> Definition:
        return cls(yaml.safe_load((CRDS / f"{plural}.yaml").read_text()))

    @cached_property
    def schema(self) -> Schema:
        schema: Schema = self.document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return schema

    def rules(self) -> list[Rule]:
        """Every rule of the definition, in order."""
        return [
            Rule(path, rule["rule"], rule["message"])
            for path, node in walk(self.schema)
            for rule in node.get(VALIDATIONS, [])
        ]

    def problems(self, obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
        """Why ``obj`` is refused (as an update of ``old``, if given); empty if it is accepted."""
        obj = defaulted(self.schema, obj)
        errors = [e.message for e in jsonschema.Draft202012Validator(self.schema).iter_errors(obj)]
        errors += unknown_fields(self.schema, obj, "")
        errors += repeated(self.schema, obj, "")
        if errors:  # like an API server: rules may rely on types
            return errors
        return list(broken_rules(self.schema, obj, None if old is None else defaulted(self.schema, old)))


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node of a schema with its dotted field path."""
    yield path.lstrip("."), schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], path + mark)


def defaulted(schema: Schema, value: Any) -> Any:
    """A copy of ``value`` without nulls and with every absent field's default."""
    if isinstance(value, dict):
        value = {key: child for key, child in value.items() if child is not None}
        for name, child in schema.get("properties", {}).items():
            if "default" in child and name not in value:
                value[name] = copy.deepcopy(child["default"])
        return {key: defaulted(_child(schema, key), child) for key, child in value.items()}
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), child) for child in value]
    return value


def unknown_fields(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, dict):
        for key, child in value.items():
            below = _child(schema, key)
            if not below and not (path == ".metadata" and key in METADATA):
                yield f'unknown field "{path[1:]}.{key}"'
            yield from unknown_fields(below, child, f"{path}.{key}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from unknown_fields(schema.get("items", {}), child, f"{path}[{index}]")


def repeated(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from repeated(_child(schema, key), child, f"{path}.{key}")
    elif isinstance(value, list):
        keys = [_key(schema, item) for item in value]
        if schema.get("x-kubernetes-list-type") in ("map", "set") and len(set(keys)) < len(keys):
            yield f"{path[1:]}: Duplicate value"
        for index, child in enumerate(value):
            yield from repeated(schema.get("items", {}), child, f"{path}[{index}]")


def broken_rules(schema: Schema, value: Any, old: Any) -> Iterator[str]:
    """Messages of the rules that are false; rules on ``oldSelf`` are checked only if there is an old value."""
    for rule in schema.get(VALIDATIONS, []):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        if not holds(rule["rule"], value, old):
            yield rule["message"]
    if isinstance(value, dict):
        for key, child in value.items():
            yield from broken_rules(_child(schema, key), child, old.get(key) if isinstance(old, dict) else None)
    elif isinstance(value, list):
        before = {_key(schema, item): item for item in old or []} if schema.get("x-kubernetes-list-type") else {}
        for child in value:
            yield from broken_rules(schema.get("items", {}), child, before.get(_key(schema, child)))


def holds(expression: str, value: Any, old: Any = None) -> bool:
    """Whether a CEL rule is true of ``value``."""
    context = cel.Context(variables={"self": value} | ({} if old is None else {"oldSelf": old}))
    context.add_function("sum", sum)
    context.add_function("isSorted", lambda items: list(items) == sorted(items))
    result = cel.evaluate(expression, context)
    assert isinstance(result, bool), f"{expression} gave {result!r}"
    return result


def _key(schema: Schema, item: Any) -> Any:
    """The key that identifies an item of a list map, or the item itself."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if keys:
        return tuple(repr(item.get(key)) for key in keys) if isinstance(item, dict) else repr(item)
    return repr(item)


def _child(schema: Schema, key: str) -> Schema:
    properties = schema.get("properties", {})
    child: Schema = properties[key] if key in properties else schema.get("additionalProperties", {})
    return child

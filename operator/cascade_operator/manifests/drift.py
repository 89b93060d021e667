"""Finds out whether an object is still as it was applied.

The API server writes some values differently (``1024Mi`` becomes ``1Gi``). So an object is compared with its form right
after it was applied, and only in the fields of the manifest. An operator that has just started does not know that form:
it compares the object with the manifest, and quantities by their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from cascade_api.quantities import quantity

T = TypeVar("T")

_QUANTITIES: Final = re.compile(r"\.resources\.(limits|requests)\.|\.sizeLimit$")
"""Matches the dotted paths of fields that contain a quantity."""


class Baselines:
    """The manifests that were made last, and the form in which the API server stored them."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, Any]] = {}
        self._applied: dict[tuple[str, str], tuple[Mapping[str, Any], Any]] = {}

    def made(self, name: str, key: object, build: Callable[[], T]) -> T:
        """The manifest of ``name``; it is built again only if ``key`` differs from the last one."""
        known = self._made.get(name)
        if known is None or known[0] != key:
            known = self._made[name] = (key, build())
        made: T = known[1]
        return made

    def keep(self, applied: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Remember the form in which the API server stored a manifest."""
        self._applied[_name(manifest)] = (manifest, projected(applied, content(manifest)))

    def difference(self, there: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
        """The first field in which an object differs from its manifest, as a dotted path; None if there is none."""
        known = self._applied.get(_name(manifest))
        wanted = known[1] if known is not None and known[0] == manifest else content(manifest)
        return first_difference(projected(there, content(manifest)), wanted)


def content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without apiVersion and kind, which the members of a list do not have."""
    return {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")}


def projected(there: Any, manifest: Any) -> Any:
    """The parts of an object that a manifest also has; lists of another length are kept whole."""
    if isinstance(manifest, Mapping):
        return {key: projected(there.get(key), value) for key, value in manifest.items()} if _is_map(there) else there
    if isinstance(manifest, list) and isinstance(there, list) and len(manifest) == len(there):
        return [projected(item, wanted) for item, wanted in zip(there, manifest, strict=True)]
    return there


def first_difference(there: Any, wanted: Any, path: str = "") -> str | None:
    """The dotted path of the first difference; None if there is none. Empty and absent values count as equal."""
    if isinstance(wanted, Mapping) and _is_map(there):
        found = (
            first_difference(there.get(key), value, f"{path}.{key}" if path else str(key))
            for key, value in wanted.items()
        )
        return next((difference for difference in found if difference is not None), None)
    if isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        pairs = enumerate(zip(there, wanted, strict=True))
        found = (first_difference(a, b, f"{path}.{index}") for index, (a, b) in pairs)
        return next((difference for difference in found if difference is not None), None)
    if there == wanted or (not there and not wanted and there is not False and wanted is not False):
        return None
    if there and wanted and _QUANTITIES.search(path) and quantity(there) == quantity(wanted):
        return None
    return path or "the object"


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _name(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]

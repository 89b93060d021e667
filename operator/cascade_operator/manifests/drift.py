"""Whether an object still says what was applied to it.

The API server spells some values its own way (``1024Mi`` becomes ``1Gi``), so an object is compared with what it looked
like right after it was applied, in the fields of the manifest alone. An operator that has just started has not seen
that: it compares with the manifest, and quantities by what they come to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cascade_api.quantities import quantity

_QUANTITIES: Final = re.compile(r"\.resources\.(limits|requests)\.|\.sizeLimit$")
"""Dotted paths of fields that hold a quantity."""


class Baselines:
    """Manifests as they were made last, and how the API server has spelt them."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, dict[str, Any]]] = {}
        self._applied: dict[tuple[str, str], tuple[Mapping[str, Any], Any]] = {}

    def made(self, name: str, key: object, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The manifest of ``name``, built anew only when ``key`` differs from the last."""
        known = self._made.get(name)
        if known is None or known[0] != key:
            known = self._made[name] = (key, build())
        return known[1]

    def keep(self, applied: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Remember what the API server made of a manifest."""
        self._applied[_name(manifest)] = (manifest, projected(applied, content(manifest)))

    def difference(self, there: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
        """The first field in which an object differs from its manifest, as a dotted path; None where in none."""
        known = self._applied.get(_name(manifest))
        wanted = known[1] if known is not None and known[0] == manifest else content(manifest)
        return first_difference(projected(there, content(manifest)), wanted)


def content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without what every object of its kind says, and the members of a list do not."""
    return {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")}


def projected(there: Any, manifest: Any) -> Any:
    """What an object says in the fields of a manifest; lists of another length are taken whole."""
    if isinstance(manifest, Mapping):
        return {key: projected(there.get(key), value) for key, value in manifest.items()} if _is_map(there) else there
    if isinstance(manifest, list) and isinstance(there, list) and len(manifest) == len(there):
        return [projected(item, wanted) for item, wanted in zip(there, manifest, strict=True)]
    return there


def first_difference(there: Any, wanted: Any, path: str = "") -> str | None:
    """Dotted path of the first difference; None where there is none. Empty and absent are the same."""
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

"""What a worker's agent is told of the variants that it shall host; `cascade_models` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .cascade import CascadeSpec
from .profile import ProfileSpec
from .variants import Variant

_OF_A_VARIANT: Final = ("name", "model", "settings", "engine", "precision", "adapters", "adapterMemoryMiB", "edits")


def hosts_document(cascades: Sequence[tuple[CascadeSpec, ProfileSpec]], weights: Sequence[str]) -> dict[str, Any]:
    """The list that says to an agent: host these weights (by digest), for all variants of the cascades that have them.

    ``cascades`` are those of the worker's pool: the one that owns it, or all that share it. Weights that none of them
    has are not in the list. The planner says when there is room to load before anything is unloaded: its list then has
    both.
    """
    entries: list[dict[str, Any]] = []
    for digest in weights:
        for spec, profile in cascades:
            names = [variant.name for variant in spec.variants if variant.weights.digest == digest]
            entries += [each for each in host_entries(spec, profile, names) if each not in entries]
    return {"variants": entries, "room": False}


def host_entries(spec: CascadeSpec, profile: ProfileSpec, serves: Sequence[str]) -> list[dict[str, Any]]:
    """The entries for the weights of the variants that a worker serves.

    Other variants of the same weights are in the list, too, after those that are served, so that a model does not
    change when a worker goes from one of them to another. A model proves that it draws by the settings of its first.
    """
    weights = {spec.variant(name).weights for name in serves}
    others = [v.name for v in spec.variants if v.weights in weights and v.name not in serves]
    return [_entry(spec, profile, spec.variant(name)) for name in (*serves, *others)]


def _entry(spec: CascadeSpec, profile: ProfileSpec, variant: Variant) -> dict[str, Any]:
    wire = variant.wire()
    entry = {key: wire[key] for key in _OF_A_VARIANT if key in wire} | {"sizes": list(spec.sizes)}
    judge = spec.discriminator_of(variant.name)
    if judge is not None:
        entry["discriminator"] = {"source": judge}
    rows = (row for row in profile.execution if row.variant == variant.name and row.size in spec.sizes)
    batches = [row.batch for row in rows]
    if batches:
        entry["batch"] = max(batches)
    return entry

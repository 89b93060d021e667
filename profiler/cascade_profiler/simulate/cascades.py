"""The cascade that a simulation runs: the one in the profile's file, or one with all variants of the profile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from cascade_api.cascade import DiffusionCascade
from cascade_api.profile import CascadeProfile, Startup
from cascade_api.quantities import format_duration
from cascade_api.workers import Hosting

from ..frontier.inputs import BadInput
from ..frontier.profiles import LoadedProfile, variants_of


def cascade_of(
    loaded: LoadedProfile,
    *,
    workers: Mapping[str, int],
    objective_s: float,
    policy: str,
    scorer: str | None,
    hosting: Hosting | None = None,
    no_worse_than: str | None = None,
    sizes: Sequence[str] = (),
    standing: bool = True,
) -> DiffusionCascade:
    """A cascade on these accelerators; raises BadInput if it is not valid.

    ``hosting`` and ``no_worse_than`` override what the profile's file says. With ``hosting: shared``, all workers stand
    (where they are ``standing``) unless the file says how few there may be. ``sizes`` are those that requests name:
    only these are offered, with the default.
    """
    document = loaded.cascade.wire() if loaded.cascade is not None else _made(loaded)
    spec = document["spec"]
    spec["objective"] = {**spec.get("objective", {}), "latency": format_duration(objective_s)}
    if no_worse_than is not None:
        spec["objective"]["quality"] = {"noWorseThan": no_worse_than}
    _set_workers(spec, workers)
    spec["policy"] = {**spec.get("policy", {}), "name": policy}
    if hosting is not None:
        for pool in spec["workers"]:
            pool["hosting"] = hosting.value
            if hosting is Hosting.SHARED and loaded.cascade is None and standing:
                pool["min"] = pool["max"]
    default = spec["sizes"][0]
    spec["sizes"] = [default, *(size for size in sizes if size != default)]
    if scorer is not None:
        spec["hardness"] = {"scorer": scorer}
    try:
        return DiffusionCascade.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(loaded.name, str(first["msg"]), field=field) from None


def _set_workers(spec: dict[str, Any], workers: Mapping[str, int]) -> None:
    """Make the cascade run only on these accelerators; its pools of other classes are removed."""
    known = {pool["class"]: pool for pool in spec.get("workers", [])}
    spec["workers"] = [
        {**pool, "min": min(pool.get("min", 0), count), "max": count}
        for pool, count in ((known.get(name, {"name": name, "class": name}), count) for name, count in workers.items())
    ]
    names = {pool["name"] for pool in spec["workers"]}
    for variant in spec["variants"]:
        if "pools" in variant:
            variant["pools"] = [name for name in variant["pools"] if name in names] or variant["pools"]


def _made(loaded: LoadedProfile) -> dict[str, Any]:
    profile = loaded.profile.spec
    on: dict[str, list[str]] = {}
    for row in profile.execution:
        classes = on.setdefault(row.variant, [])
        if row.accelerator_class not in classes:
            classes.append(row.accelerator_class)
    return {
        "apiVersion": "diffusioncascade.io/v1alpha1",
        "kind": "DiffusionCascade",
        "metadata": {"name": loaded.profile.metadata.name},
        "spec": {
            "profileRef": {"name": loaded.profile.metadata.name},
            "sizes": [profile.execution[0].size],
            "variants": [
                {
                    "name": name,
                    "model": {"source": f"hf://published/{name}", "revision": "published"},
                    "settings": {"steps": 1},
                    "engine": "diffusers",
                    "pools": on[name],
                }
                for name in variants_of(profile)
            ],
            "discriminator": {"source": "hf://published/discriminator"},
            "policy": {"headroomPercent": 0},
        },
    }


def with_switch_time(profile: CascadeProfile, switch_s: float | None) -> CascadeProfile:
    """The profile in which every start and switch takes ``switch_s``, so that the planner knows; None: unchanged."""
    if switch_s is None:
        return profile
    startup = [
        Startup(
            variant=variant,
            accelerator_class=accelerator_class,
            cold_seconds=math.ceil(switch_s),
            load_millis=round(switch_s * 1000),
        )
        for variant, accelerator_class in dict.fromkeys(
            (row.variant, row.accelerator_class) for row in profile.spec.execution
        )
    ]
    return profile.model_copy(update={"spec": profile.spec.model_copy(update={"startup": startup})})

"""The example with a profile that makes it seem slower than it is, so that plans change at a few requests per second,
which any machine can serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from .factories import quality
from .triton import shapes_manifest

Document = dict[str, Any]


def patient_documents(
    *,
    light_ms: int,
    heavy_ms: int,
    name: str = "shapes",
    accelerator_class: str = "cpu",
    workers: int = 2,
    **spec: Mapping[str, Any],
) -> list[Document]:
    """A cascade and its profile, both called ``name``.

    Args:
        light_ms: what the profile says of an image of the light variant.
        heavy_ms: the same of the heavy one.
        accelerator_class: the class that both variants run on, and that the profile has figures of.
        workers: how many there are of it at most.
        spec: sections of the cascade's spec to update, such as ``objective={"latency": "8s"}``.
    """
    documents: list[Document] = list(yaml.safe_load_all(shapes_manifest()))
    cascade, profile = (
        next(d for d in documents if d["kind"] == kind) for kind in ("DiffusionCascade", "CascadeProfile")
    )
    for document in documents:
        document["metadata"] = {"name": name}
    cascade["spec"]["profileRef"] = {"name": name}
    cascade["spec"]["workers"] = [{"name": "own", "class": accelerator_class, "max": workers}]
    for section, values in spec.items():
        cascade["spec"][section] = {**cascade["spec"].get(section, {}), **values}
    for row in profile["spec"]["execution"]:
        micros = (light_ms if row["variant"] == "shapes-light" else heavy_ms) * 1000 * row["batch"]
        row |= {"p50Micros": micros, "p95Micros": micros * 11 // 10}
    for row in profile["spec"]["discriminator"]:
        row |= {"p50Micros": 1000, "p95Micros": 1100}
    for rows in ("execution", "discriminator", "startup"):
        for row in profile["spec"][rows]:
            row["class"] = accelerator_class
    for row in profile["spec"]["quality"]:
        value = quality(row["directPercent"] / 100, row["escalationPercent"] / 100)
        row["valuesMilli"] = {metric["name"]: round(1000 * value) for metric in profile["spec"]["metrics"]}
    return documents


def with_replicas(documents: list[Document], *, light: int, heavy: int) -> list[Document]:
    """The same documents with fixed numbers of replicas, whatever is asked of the cascade."""
    for document in documents:
        if document["kind"] == "DiffusionCascade":
            document["spec"]["workers"][0]["max"] = light + heavy
            for variant, number in zip(document["spec"]["variants"], (light, heavy), strict=True):
                variant["minHosts"] = number
    return documents


def patient_manifest(**options: Any) -> str:
    """The same as YAML, see `patient_documents`."""
    return yaml.safe_dump_all(patient_documents(**options))

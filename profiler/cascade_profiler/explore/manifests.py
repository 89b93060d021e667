"""Writes the manifest of the variants that were kept: the one that was read, with other variants."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import load_documents
from cascade_api.variants import EDIT_STEPS
from cascade_models.manifest import ManifestVariant
from cascade_models.recipe import FIRST_BLOCK

from ..measure.writing import with_document

HEADER = "# Made by `cascade explore`: the variants that are worth serving, the cheapest first.\n"
WIDTH = 200


def with_variants(text: str, cascade: DiffusionCascade, kept: Sequence[ManifestVariant]) -> str:
    """The manifest ``text`` in which the cascade has the variants ``kept``; comments of its document are lost.

    Each variant is like the first variant in ``text`` that has its weights, if need be in another precision, apart from
    name, settings and precision. ``minHosts`` stays with the first kept variant of those weights, so that no more
    workers are asked for than before. Variants with too few steps to edit images do not.
    """
    (document,) = (d for d in yaml.safe_load_all(text) if isinstance(d, dict) and _is(d, cascade))
    given = {variant.name: index for index, variant in enumerate(cascade.spec.variants)}
    models = {variant.weights.model: index for index, variant in reversed(list(enumerate(cascade.spec.variants)))}
    entries, seen = [], set()
    for variant in kept:
        alike = next(
            one.weights.model
            for one in cascade.spec.variants
            if replace(variant, precision=one.precision or "").model == one.weights.model
        )
        weights = variant.model if variant.model in models else alike
        index = given.get(variant.name, models[weights])
        entry = copy.deepcopy(document["spec"]["variants"][index])
        entry |= {"name": variant.name, "settings": _settings(variant)}
        if variant.precision:
            entry["precision"] = variant.precision
        if weights in seen:
            entry.pop("minHosts", None)
        if variant.settings.steps < EDIT_STEPS:
            entry.pop("edits", None)
        seen.add(weights)
        entries.append(entry)
    document["spec"]["variants"] = entries
    dumped = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=WIDTH)
    return with_document(text, cascade, HEADER + dumped)


def cascade_of(text: str, like: DiffusionCascade) -> DiffusionCascade:
    """The cascade in ``text`` with the name of another; raises DocumentError if the text is not a valid manifest."""
    documents = load_documents(text, source="the explored manifest")
    return next(d for d in documents if isinstance(d, DiffusionCascade) and d.ref == like.ref)


def _settings(variant: ManifestVariant) -> Mapping[str, Any]:
    settings: dict[str, Any] = {"steps": variant.settings.steps}
    if variant.settings.guidance is not None:
        settings["guidance"] = f"{variant.settings.guidance:g}"
    if variant.settings.guidance_interval:
        low, high = map(int, variant.settings.guidance_interval.split("-"))
        settings["guidanceInterval"] = {"fromPercent": low, "toPercent": high}
    if variant.settings.step_cache:
        kind, _, amount = variant.settings.step_cache.partition(":")
        measure = {"threshold": amount} if kind == FIRST_BLOCK else {"interval": int(amount)}
        settings["stepCache"] = {"kind": kind, **measure}
    return settings


def _is(document: Mapping[str, Any], cascade: DiffusionCascade) -> bool:
    metadata = document.get("metadata") or {}
    identity = (metadata.get("namespace", "default"), metadata.get("name"))
    return document.get("kind") == cascade.kind and identity == (cascade.ref.namespace, cascade.ref.name)

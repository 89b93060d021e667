"""Reads from a manifest what is needed to serve its variants. Every error names a field and the fix.

It reads the same YAML as the rest of the product, but only with PyYAML: this package runs in Triton's environment and
shares no code with the other components.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from cascade_models import catalogue
from cascade_models.recipe import (
    ADAPTER_MEMORY_MIB,
    STEP_CACHES,
    TAYLOR_SEER,
    Adapter,
    Settings,
    is_interval,
    is_step_cache,
    pixels_of,
)

DEFAULT_BATCH: Final = 8
"""Largest batch of a variant that neither a profile in the manifest nor the catalogue knows."""

LARGEST_BATCH: Final = 1024

NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALE: Final = re.compile(r"[0-9](\.[0-9]{1,3})?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._/@:-]+")


class ManifestError(ValueError):
    """A manifest cannot be served; ``field`` is a dotted path, and the message ends with what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


@dataclass(frozen=True)
class ManifestVariant:
    """One variant of a manifest.

    ``field`` and ``discriminator_field`` are paths in the manifest, for messages. ``batch`` is the largest batch that
    the model must accept. ``weights``, ``precision`` and ``discriminator`` are empty if the manifest gives none.
    ``adapters`` are those that requests may choose, which may take ``adapter_memory_mib`` in all. ``sizes`` are those
    of the images that requests may name, the default first. ``edits`` says whether requests may give an image.
    """

    field: str
    name: str
    source: str
    revision: str
    weights: str
    engine: str
    precision: str
    settings: Settings
    sizes: tuple[str, ...]
    sizes_field: str
    discriminator: str
    discriminator_field: str
    batch: int
    adapters: tuple[Adapter, ...] = ()
    adapter_memory_mib: int = 0
    edits: bool = False

    @property
    def width(self) -> int:
        """Of images whose request names no size, in pixels."""
        return pixels_of(self.sizes[0])[0]

    @property
    def height(self) -> int:
        """Of images whose request names no size, in pixels."""
        return pixels_of(self.sizes[0])[1]

    @property
    def model(self) -> str:
        """Name of the Triton model of its weights, which all variants of the same weights share.

        The other components build the same name in `cascade_api.variants.Weights`.
        """
        weights = (self.source, self.revision, self.weights or None, self.engine, self.precision or None)
        return f"weights-{hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:16]}"


def read_variants(text: str) -> list[ManifestVariant]:
    """The variants of all cascades of a manifest, in order; those of two cascades may have one name.

    Raises ManifestError if it is not YAML or has no cascade, or if a field is missing or of the wrong type.
    """
    try:
        documents = list(_flat(yaml.load_all(text, Loader=_Loader)))
    except yaml.YAMLError as error:
        raise ManifestError("", f"not YAML: {error}") from None
    cascades = [document for document in documents if document.get("kind") == "DiffusionCascade"]
    if not cascades:
        raise ManifestError("kind", "holds no DiffusionCascade: add one")
    found: list[ManifestVariant] = []
    for cascade in cascades:
        names: set[str] = set()
        spec = _get(cascade, "", "spec", dict)
        batches = _largest_batches(documents, cascade, spec)
        for index, entry in enumerate(_get(spec, "spec", "variants", list)):
            variant = _variant(entry, f"spec.variants.{index}", above=(spec, "spec"), batches=batches)
            if variant.name in names:
                raise ManifestError(f"{variant.field}.name", f"{variant.name!r} is there twice: rename one")
            names.add(variant.name)
            found.append(variant)
    return found


def read_hosts(entries: object, field: str) -> list[ManifestVariant]:
    """The variants that a worker is told to host: entries of ``spec.variants`` that also have ``sizes``, their
    discriminator, and ``batch`` where it is known.

    ``field`` is where they stand. Raises ManifestError, as `read_variants`.
    """
    if not isinstance(entries, list):
        raise ManifestError(field, "should be a list of variants")
    found = []
    for index, entry in enumerate(entries):
        at = f"{field}.{index}"
        if not isinstance(entry, dict):
            raise ManifestError(at, "is not a mapping: it should be a variant with name, model, engine and sizes")
        batch = _get(entry, at, "batch", int) if "batch" in entry else None
        if batch is not None and not 1 <= batch <= LARGEST_BATCH:
            raise ManifestError(f"{at}.batch", f"is {batch}: write a number from 1 to {LARGEST_BATCH}")
        batches = {} if batch is None else {entry.get("name"): batch}
        found.append(_variant(entry, at, above=(entry, at), batches=batches))
    return found


def _flat(documents: Iterable[object]) -> Iterator[dict[str, Any]]:
    """The documents, in which each List is replaced by its items."""
    for document in documents:
        if not isinstance(document, dict):
            continue
        if document.get("kind") == "List":
            yield from _flat(_get(document, "", "items", list))
        else:
            yield document


def _variant(
    entry: object,
    field: str,
    *,
    above: tuple[Mapping[str, Any], str],
    batches: Mapping[Any, int],
) -> ManifestVariant:
    """A variant of a list; ``above`` has the sizes of its images, and its discriminator if it has none of its own."""
    if not isinstance(entry, dict):
        raise ManifestError(field, "is not a mapping: it should be a variant with name, model and engine")
    name = _get(entry, field, "name", str)
    if not NAME.fullmatch(name):
        raise ManifestError(f"{field}.name", f"{name!r} is not a name: use lower-case letters, digits and dashes")
    model = _get(entry, field, "model", dict)
    at = f"{field}.model"
    owner, there = (entry, field) if "discriminator" in entry else above
    judge = f"{there}.discriminator"
    source = _get(model, at, "source", str)
    known = catalogue.find(source)
    settings = _get(entry, field, "settings", dict)
    variant = ManifestVariant(
        field=field,
        name=name,
        source=source,
        revision=_get(model, at, "revision", str),
        weights=_get(model, at, "weights", str) if "weights" in model else "",
        engine=_get(entry, field, "engine", str),
        precision=_get(entry, field, "precision", str) if "precision" in entry else "",
        settings=Settings(
            steps=_get(settings, f"{field}.settings", "steps", int),
            guidance=_guidance(settings, f"{field}.settings"),
            guidance_interval=_guidance_interval(settings, f"{field}.settings"),
            step_cache=_step_cache(settings, f"{field}.settings"),
        ),
        sizes=_sizes(*above),
        sizes_field=f"{above[1]}.sizes",
        discriminator=_get(_get(owner, there, "discriminator", dict), judge, "source", str)
        if "discriminator" in owner
        else "",
        discriminator_field=f"{judge}.source",
        batch=batches.get(name, DEFAULT_BATCH if known is None else known.largest_batch),
        adapters=tuple(_adapters(entry, field)),
        adapter_memory_mib=_adapter_memory_mib(entry, field),
        edits="edits" in entry and _get(entry, field, "edits", bool),
    )
    named = {f"{at}.{key}": getattr(variant, key) for key in ("source", "revision", "weights")}
    for place, value in {**named, variant.discriminator_field: variant.discriminator}.items():
        if value and not _TOKEN.fullmatch(value):
            raise ManifestError(place, f"{value!r} may have letters, digits and ._/@:- only")
    return variant


def _adapters(entry: Mapping[str, Any], field: str) -> Iterator[Adapter]:
    """The adapters of a variant; only the other components need their names."""
    for index, given in enumerate(_get(entry, field, "adapters", list) if "adapters" in entry else ()):
        at = f"{field}.adapters.{index}"
        if not isinstance(given, dict):
            raise ManifestError(at, "is not a mapping: it should be an adapter with name, source and revision")
        texts = {key: _get(given, at, key, str) for key in ("source", "revision")}
        texts["weightName"] = _get(given, at, "weightName", str) if "weightName" in given else ""
        for key, text in texts.items():
            if text and not _TOKEN.fullmatch(text):
                raise ManifestError(f"{at}.{key}", f"{text!r} may have letters, digits and ._/@:- only")
        scale = _get(given, at, "scale", str) if "scale" in given else "1"
        if not _SCALE.fullmatch(scale) or not float(scale):
            raise ManifestError(f"{at}.scale", f'{scale!r} is not above 0 and below 10: write a number such as "0.8"')
        yield Adapter(texts["source"], texts["revision"], texts["weightName"], float(scale))


def _adapter_memory_mib(entry: Mapping[str, Any], field: str) -> int:
    """The memory that loaded adapters may take; 0 for a variant that has none, and so says nothing about it."""
    if "adapters" not in entry:
        return 0
    given = _get(entry, field, "adapterMemoryMiB", int) if "adapterMemoryMiB" in entry else ADAPTER_MEMORY_MIB
    if given < 1:
        raise ManifestError(f"{field}.adapterMemoryMiB", f"is {given}: write a number of MiB, such as 1024")
    return int(given)


def _sizes(above: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """The sizes of images, the default first."""
    sizes = _get(above, field, "sizes", list)
    if not sizes:
        raise ManifestError(f"{field}.sizes", "is empty: give a size, such as 1024x1024")
    for index, size in enumerate(sizes):
        try:
            pixels_of(str(size))
        except ValueError:
            raise ManifestError(
                f"{field}.sizes.{index}", f"{size!r:.60} is not a size: write one such as 1024x1024"
            ) from None
        if size in sizes[:index]:
            raise ManifestError(f"{field}.sizes.{index}", f"{size} is there twice: a size is listed once")
    return tuple(sizes)


def _guidance(settings: Mapping[str, Any], field: str) -> float | None:
    if "guidance" not in settings:
        return None
    text = _get(settings, field, "guidance", str)
    try:
        return float(text)
    except ValueError:
        raise ManifestError(f"{field}.guidance", f'{text!r} is not a number: write one such as "4.5"') from None


def _guidance_interval(settings: Mapping[str, Any], field: str) -> str:
    """The part of the steps that are guided, see `Settings`; empty if all are."""
    if "guidanceInterval" not in settings:
        return ""
    at = f"{field}.guidanceInterval"
    interval = _get(settings, field, "guidanceInterval", dict)
    text = f"{_get(interval, at, 'fromPercent', int)}-{_get(interval, at, 'toPercent', int)}"
    if not is_interval(text):
        raise ManifestError(at, f"{text} is not a part of the steps in percent: write fromPercent below toPercent")
    return text


def _step_cache(settings: Mapping[str, Any], field: str) -> str:
    """What is reused from step to step, see `Settings`; empty if nothing is."""
    if "stepCache" not in settings:
        return ""
    at = f"{field}.stepCache"
    cache = _get(settings, field, "stepCache", dict)
    kind = _get(cache, at, "kind", str)
    if kind not in STEP_CACHES:
        raise ManifestError(f"{at}.kind", f"{kind!r} is not a step cache: write {' or '.join(STEP_CACHES)}")
    amount = _get(cache, at, "interval", int) if kind == TAYLOR_SEER else _get(cache, at, "threshold", str)
    text = f"{kind}:{amount}"
    if not is_step_cache(text):
        raise ManifestError(at, f'{text} is out of range: write a threshold such as "0.08", or an interval such as 3')
    return text


def _largest_batches(
    documents: list[dict[str, Any]], cascade: Mapping[str, Any], spec: Mapping[str, Any]
) -> dict[str, int]:
    """The largest measured batch of each variant at any of the cascade's sizes, if the manifest has its profile."""
    wanted = _get(_get(spec, "spec", "profileRef", dict), "spec.profileRef", "name", str)
    batches: dict[str, int] = {}
    for document in documents:
        if document.get("kind") != "CascadeProfile" or _identity(document) != (_identity(cascade)[0], wanted):
            continue
        rows = _get(_get(document, "", "spec", dict), "spec", "execution", list)
        for index, row in enumerate(rows):
            at = f"spec.execution.{index}"
            if not isinstance(row, dict):
                raise ManifestError(at, "is not a mapping: it should be a measurement")
            name, batch = _get(row, at, "variant", str), _get(row, at, "batch", int)
            if _get(row, at, "size", str) in _get(spec, "spec", "sizes", list):
                batches[name] = max(batch, batches.get(name, 1))
    return batches


def _identity(document: Mapping[str, Any]) -> tuple[str, str]:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return str(metadata.get("namespace", "default")), str(metadata.get("name", ""))


def _get(mapping: Mapping[str, Any], field: str, key: str, kind: type) -> Any:
    at = f"{field}.{key}" if field else key
    if key not in mapping:
        raise ManifestError(at, "is required: add it")
    value = mapping[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a mapping"}[kind]
        raise ManifestError(at, f"should be {wanted} (is {value!r:.60})")
    return value

"""The catalogue of public models, one file each in `variants/*.yaml`, and of the cascades that they form.

A manifest names the model, its steps and the size of the images. What else is needed to run a public model (class of
the pipeline, guidance, number format, parts of another model) is in the catalogue, under the manifest's ``source``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cascade_models.engines import ENGINES
from cascade_models.recipe import (
    COMMIT,
    HUB,
    PRECISIONS,
    STEP_CACHES,
    Assembly,
    Recipe,
    RecipeError,
    Settings,
    SettingsSpace,
    is_step_cache,
)

FOLDER: Final = Path(__file__).parent / "variants"
CASCADES: Final = "cascades.yaml"
DTYPES: Final = {"float16": 2, "bfloat16": 2, "float32": 4}
"""Bytes of a number by its format."""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_KEYS: Final = {
    "source", "revision", "licence", "gated", "parametersMillions", "image", "steps", "search", "stepCaches", "weights",
    "engines", "largestBatch", "assembly",
}  # fmt: skip
_ASSEMBLY: Final = {
    "pipeline": ("pipeline", str),
    "dtype": ("dtype", str),
    "guidance": ("guidance", float),
    "base": ("base", str),
    "baseRevision": ("base_revision", str),
    "denoiser": ("denoiser", str),
    "scheduler": ("scheduler", dict),
    "arguments": ("arguments", dict),
}
"""The attribute of `Assembly`, and its type, for each key in the file."""


class CatalogueError(ValueError):
    """A file of the catalogue is wrong; the message names the file, the field and the fix."""


@dataclass(frozen=True)
class CatalogueEntry:
    """What the catalogue knows about one public model.

    Attributes:
        revision: the commit for which the entry was written; a manifest may pin another.
        gated: whether downloads need the token of an account that accepted the licence.
        parameters_millions: those of the denoiser, and those of all other networks together.
        steps: the usual number of steps.
        search: the settings that `cascade explore` tries if it is told no others.
        step_caches: the kinds of step caches that its denoiser can have with engine diffusers.
        weights: the named weights of the source, with the number of steps for which each is made; empty: the source has
            only one, for any number of steps.
        largest_batch: the largest batch on one accelerator; a profile in the manifest takes precedence.
    """

    name: str
    source: str
    revision: str
    licence: str
    gated: bool
    parameters_millions: Mapping[str, int]
    height: int
    width: int
    steps: int
    search: SettingsSpace
    step_caches: tuple[str, ...]
    weights: Mapping[str, int]
    engines: tuple[str, ...]
    largest_batch: int
    assembly: Assembly

    @property
    def weights_mib(self) -> int:
        """The memory of all weights in the entry's number format, in MiB, without activations."""
        return round(sum(self.parameters_millions.values()) * 1e6 * DTYPES[self.assembly.dtype] / 2**20)

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError if this model cannot be run as the recipe says."""
        if self.weights and recipe.weights not in self.weights:
            raise RecipeError("weights", f"{self.name} has {', '.join(self.weights)}: name one of them")
        if recipe.engine not in self.engines:
            raise RecipeError("engine", f"{recipe.engine!r} cannot run {self.name}: write {' or '.join(self.engines)}")

    def check_settings(self, settings: Settings) -> None:
        """Raise RecipeError if this model cannot draw so."""
        kind = settings.step_cache.partition(":")[0]
        if kind and kind not in self.step_caches:
            fix = f"write {' or '.join(self.step_caches)}" if self.step_caches else "leave it out"
            raise RecipeError("stepCache", f"diffusers has no {kind} for the denoiser of {self.name}: {fix}")

    def wire(self) -> dict[str, Any]:
        """The entry as data for JSON."""
        return {**asdict(self), "weights_mib": self.weights_mib}


@functools.cache
def entries(folder: Path = FOLDER) -> dict[str, CatalogueEntry]:
    """All entries by name, in alphabetical order; raises CatalogueError."""
    files = sorted(file for file in folder.glob("*.yaml") if file.name != CASCADES)
    found = {file.stem: _entry(file) for file in files}
    sources: dict[str, str] = {}
    for entry in found.values():
        if entry.source in sources:
            raise CatalogueError(f"{entry.name}.yaml: source: {sources[entry.source]}.yaml has it too: remove one")
        sources[entry.source] = entry.name
    return found


@functools.cache
def cascades(folder: Path = FOLDER) -> dict[str, tuple[CatalogueEntry, ...]]:
    """The cascades by name, each from light to heavy; raises CatalogueError."""
    known = entries(folder)
    result: dict[str, tuple[CatalogueEntry, ...]] = {}
    for name, members in _mapping(folder / CASCADES).items():
        if not isinstance(members, list) or len(members) < 2:
            raise CatalogueError(f"{CASCADES}: {name}: should list two variants or more, light to heavy")
        strangers = [member for member in members if member not in known]
        if strangers:
            raise CatalogueError(f"{CASCADES}: {name}: no variant {strangers[0]!r}: add {strangers[0]}.yaml")
        result[name] = tuple(known[member] for member in members)
        if len({(entry.height, entry.width) for entry in result[name]}) > 1:
            raise CatalogueError(f"{CASCADES}: {name}: its variants have different image sizes")
    return result


def find(source: str) -> CatalogueEntry | None:
    """The entry of a manifest's ``source``, or None."""
    return next((entry for entry in entries().values() if entry.source == source), None)


def _entry(file: Path) -> CatalogueEntry:
    if not _NAME.fullmatch(file.stem):
        raise CatalogueError(f"{file.name}: is not a name of a variant: use lower-case letters, digits and dashes")
    content = _mapping(file)
    reader = _Reader(file.name, content)
    reader.refuse_others(_KEYS)
    image, numbers = reader.section("image"), reader.section("parametersMillions")
    entry = CatalogueEntry(
        name=file.stem,
        source=reader.get("source", str),
        revision=reader.get("revision", str),
        licence=reader.get("licence", str),
        gated=reader.get("gated", bool, default=False),
        parameters_millions={key: numbers.get(key, int) for key in ("denoiser", "rest")},
        height=image.get("height", int),
        width=image.get("width", int),
        steps=reader.get("steps", int),
        search=_search(reader.section("search")),
        step_caches=tuple(reader.get("stepCaches", list, default=[])),
        weights=reader.get("weights", dict, default={}),
        engines=tuple(reader.get("engines", list)),
        largest_batch=reader.get("largestBatch", int),
        assembly=_assembly(reader.section("assembly")),
    )
    problems = {
        "source": not entry.source.startswith(HUB) and f"should begin with {HUB}",
        "revision": not COMMIT.fullmatch(entry.revision) and "should be a commit of 40 hexadecimal digits",
        "engines": not set(entry.engines) <= set(ENGINES) and f"should be of {', '.join(ENGINES)}",
        "stepCaches": not set(entry.step_caches) <= set(STEP_CACHES) and f"should be of {', '.join(STEP_CACHES)}",
        "search.stepCaches": not {text.partition(":")[0] for text in entry.search.step_caches}
        <= {"", *entry.step_caches}
        and "should be of the kinds in stepCaches",
        "search.precisions": not set(entry.search.precisions) <= set(PRECISIONS)
        and f"should be of {', '.join(PRECISIONS)}",
        "weights": bool(entry.weights) and entry.steps not in entry.weights.values() and "should have some for steps",
        "assembly.dtype": entry.assembly.dtype not in DTYPES and f"should be one of {', '.join(DTYPES)}",
        "assembly.baseRevision": bool(entry.assembly.base)
        and not COMMIT.fullmatch(entry.assembly.base_revision)
        and "should be a commit of 40 hexadecimal digits",
    }
    for field, problem in problems.items():
        if problem:
            raise CatalogueError(f"{file.name}: {field}: {problem}")
    return entry


def _search(reader: _Reader) -> SettingsSpace:
    reader.refuse_others({"steps", "guidance", "stepCaches", "precisions"})
    steps, guidance = reader.get("steps", list), reader.get("guidance", list, default=[])
    caches, precisions = reader.get("stepCaches", list, default=[]), reader.get("precisions", list, default=[])
    if not steps or not all(type(number) is int and number > 0 for number in steps):
        raise CatalogueError(f"{reader.place}: steps: should list one or more numbers of steps (is {steps!r:.60})")
    if not all(isinstance(scale, (int, float)) and not isinstance(scale, bool) for scale in guidance):
        raise CatalogueError(f"{reader.place}: guidance: should list scales (is {guidance!r:.60})")
    if not all(isinstance(cache, str) and is_step_cache(cache) for cache in caches):
        raise CatalogueError(
            f"{reader.place}: stepCaches: should list some such as first-block:0.08 (is {caches!r:.60})"
        )
    return SettingsSpace(tuple(steps), tuple(map(float, guidance)) or (None,), ("",), ("", *caches), tuple(precisions))


def _assembly(reader: _Reader) -> Assembly:
    reader.refuse_others(set(_ASSEMBLY))
    given = {key: place for key, place in _ASSEMBLY.items() if key in reader.content}
    return Assembly(**{attribute: reader.get(key, kind) for key, (attribute, kind) in given.items()})


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CatalogueError(f"{file.name}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CatalogueError(f"{file.name}: should be a mapping")
    return content


@dataclass(frozen=True)
class _Reader:
    """Reads the fields of a mapping and checks their types; errors name the file and the field."""

    place: str
    content: Mapping[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.content.get(key, default)
        if value is None:
            raise CatalogueError(f"{self.place}: {key}: is required: add it")
        if isinstance(value, int) and kind is float and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CatalogueError(f"{self.place}: {key}: should be {kind.__name__} (is {value!r:.60})")
        return value

    def section(self, key: str) -> _Reader:
        return _Reader(f"{self.place}: {key}", self.get(key, dict))

    def refuse_others(self, known: set[str]) -> None:
        others = sorted(set(self.content) - known)
        if others:
            raise CatalogueError(f"{self.place}: {others[0]}: is not known: one of {', '.join(sorted(known))}")

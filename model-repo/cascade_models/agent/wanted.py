"""What a worker is to host: read from a request, checked as a whole, kept across restarts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cascade_models import repository
from cascade_models.agent.triton_http import Parameters
from cascade_models.manifest import ManifestError, ManifestVariant, read_hosts
from cascade_models.recipe import Recipe

FIELDS: Final = ("variants", "room")


@dataclass(frozen=True)
class WantedHosts:
    """The Triton models that a worker is to have, by name.

    Attributes:
        recipes: what each is made of.
        proofs: the settings by which each proves that it draws: those of the first variant that was named of it.
        room: whether what is hosted and what is wanted fit into memory together, so that models are loaded before
            others are unloaded.
    """

    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    proofs: Mapping[str, Parameters] = field(default_factory=dict)
    room: bool = True

    @classmethod
    def of(cls, variants: Sequence[ManifestVariant], *, room: bool = True) -> WantedHosts:
        """The models of some variants; raises ManifestError where one cannot be served."""
        recipes = repository.models_of(variants)
        first = {variant.model: variant.name for variant in reversed(variants)}
        proofs = {model: recipe.settings[first[model]].parameters() for model, recipe in recipes.items()}
        return cls(recipes, proofs, room)

    @classmethod
    def read(cls, document: object) -> WantedHosts:
        """What a request says; raises ManifestError, which names the field."""
        if not isinstance(document, dict):
            raise ManifestError("", f"not a mapping: it should have {' and '.join(FIELDS)}")
        unknown = sorted(set(document) - set(FIELDS))
        if unknown:
            raise ManifestError(str(unknown[0]), f"is not known: there are {' and '.join(FIELDS)}")
        if "variants" not in document:
            raise ManifestError("variants", "is required: add it, empty for nothing")
        room = document.get("room", True)
        if not isinstance(room, bool):
            raise ManifestError("room", f"should be true or false (is {room!r:.60})")
        return cls.of(read_hosts(document["variants"], "variants"), room=room)

    @property
    def prints(self) -> dict[str, str]:
        """By model, a digest of all that its process depends on; variants of the same weights may come and go.

        So may adapters, which a process learns from its `config.pbtxt`. Only whether there are any counts: weights that
        take some are not compiled.
        """
        return {model: _print(recipe) for model, recipe in self.recipes.items()}


class Memory:
    """A file that has the last list, so that an agent that starts again hosts the same without being told."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def recall(self) -> WantedHosts | None:
        """What was wanted; None where nothing was, or where it cannot be hosted any more."""
        try:
            return WantedHosts.read(json.loads(self._file.read_bytes()))
        except (OSError, ValueError):
            return None

    def keep(self, document: object) -> None:
        """Replace it atomically; raises OSError."""
        scratch = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(self._file)


def _print(recipe: Recipe) -> str:
    changing = ("settings", "adapters", "adapter_memory_mib")
    parts = {key: value for key, value in recipe.parameters().items() if key not in changing}
    parts["adapted"] = str(bool(recipe.adapters))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

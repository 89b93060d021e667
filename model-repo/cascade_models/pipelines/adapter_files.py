"""The files of LoRA adapters: which requests may name, where they are, and what is wrong with those that are not.

They are fetched as weights are, into the same cache, when a model is loaded and when the manifest gets more of them.
Imports nothing heavy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cascade_models import weights
from cascade_models.pipelines.pipeline import AdapterError
from cascade_models.recipe import Adapter, RecipeError

RETRY_S: Final = 30.0
"""How long after a fetch that failed the next one is tried."""


def fetch(adapter: Adapter, *, limit_mib: int) -> Path:
    """The file of an adapter, fetched if it is missing; raises WeightsError or RecipeError."""
    files = weights.find(adapter.source, adapter.revision)
    name = adapter.file
    if not name:
        found = [each for each in files.names if each.endswith(weights.SAFETENSORS)]
        if len(found) != 1:
            listed = f" ({', '.join(found[:8])})" if found else ""
            raise RecipeError(
                "adapters", f"{adapter.source} has {len(found)} safetensors files{listed}: name one in weightName"
            )
        name = found[0]
    if name not in files.names:
        raise RecipeError("adapters", f"{adapter.source} has no file {name}: correct weightName, or the source")
    size_mib = files.size(name) / 2**20
    if size_mib > limit_mib:
        raise RecipeError(
            "adapters",
            f"{name} of {adapter.source} has {size_mib:.0f} MiB, and adapters may take {limit_mib}: "
            "raise adapterMemoryMiB",
        )
    file = files.folder([name]) / name
    if any("dora_scale" in tensor for tensor in weights.numbers_in(file)):
        raise RecipeError("adapters", f"{name} of {adapter.source} is a DoRA, which diffusers applies only in part")
    return file


class AdapterFiles:
    """The adapters of some weights by digest; thread-safe.

    An adapter that left the manifest is still offered, since requests for it may be under way.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._files: dict[str, tuple[Adapter, Path]] = {}
        self._problems: dict[str, str] = {}
        self._next_try: dict[str, float] = {}
        self._fetching = threading.Lock()
        self.limit_mib = 0
        """What loaded adapters may take."""

    def offer(self, adapters: Mapping[str, Adapter], *, limit_mib: int) -> None:
        """Offer these too; those that are missing are fetched before this returns."""
        with self._fetching:
            self.limit_mib = limit_mib
            for digest, adapter in adapters.items():
                if digest in self._files or self._clock() < self._next_try.get(digest, 0.0):
                    continue
                try:
                    self._files[digest] = adapter, fetch(adapter, limit_mib=limit_mib)
                    self._problems.pop(digest, None)
                except (weights.WeightsError, RecipeError) as error:
                    self.refuse(digest, str(error))
                    self._next_try[digest] = self._clock() + RETRY_S

    def refuse(self, digest: str, problem: str) -> None:
        """Note, for the log and for requests, why an adapter cannot be used."""
        if self._problems.get(digest) != problem:
            weights.say(f"adapter {digest}: {problem}")
        self._problems[digest] = problem

    def find(self, digest: str) -> tuple[Adapter, Path]:
        """An adapter and its file; raises AdapterError."""
        if digest in self._problems:
            raise AdapterError(f"lora: the adapter cannot be used: {self._problems[digest]}")
        if digest not in self._files:
            raise AdapterError("lora: the adapter is not here yet; ask again in a moment")
        return self._files[digest]

"""The LoRA adapters that are loaded into a pipeline of diffusers, and which of them is applied.

Adapters change the networks, which all runs of a process share. One thread makes all runs, and a run may only be
overtaken between two of its steps. So each run applies its own adapter when it begins and after it may have been
overtaken, and no run ever takes a step with another one's.

Loaded adapters are bounded in number and memory: the least recently used are unloaded for another. Even the one of a
run that is being overtaken may be: the run loads it again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.utils.peft_utils import delete_adapter_layers

from cascade_models import weights
from cascade_models.engines import OutOfMemory, is_out_of_memory
from cascade_models.pipelines.adapter_files import AdapterFiles
from cascade_models.pipelines.pipeline import AdapterError
from cascade_models.recipe import Adapter

MOST_LOADED: Final = 8
"""Adapters that are loaded at a time, however small they are: each makes applying another one slower."""


class Adapters:
    """Which adapters are loaded, and which one is applied; not thread-safe.

    Args:
        pipe: the pipeline of diffusers.
        denoiser: its denoiser, whose number format adapters get.
        files: where the files are.
    """

    def __init__(self, pipe: Any, denoiser: torch.nn.Module, files: AdapterFiles) -> None:
        self._pipe = pipe
        self._dtype = denoiser.dtype
        self._files = files
        self._loaded: OrderedDict[str, int] = OrderedDict()
        self._applied: str | None = ""
        """Empty: none. None: not known, since adapters were loaded or unloaded, or applying one failed."""
        self.takes_any = hasattr(pipe, "load_lora_weights")
        """Whether the pipeline's class knows adapters at all."""

    @property
    def loaded(self) -> dict[str, int]:
        """The bytes of each loaded adapter, the least recently used first."""
        return dict(self._loaded)

    def apply(self, digest: str) -> None:
        """Apply this adapter alone from now on, or none.

        Raises AdapterError, or OutOfMemory; then nothing may be drawn before this was called again.
        """
        if digest == self._applied:
            return
        # Runs are in inference mode. Networks are not, and stay so.
        with torch.inference_mode(False), torch.no_grad():
            if digest:
                adapter, file = self._files.find(digest)
                if digest not in self._loaded:
                    self._load(digest, adapter, file)
                self._loaded.move_to_end(digest)
                if not self._applied:
                    self._pipe.enable_lora()
                self._applied = None
                self._pipe.set_adapters([digest], [adapter.scale])
            else:
                self._pipe.disable_lora()
        self._applied = digest

    def _load(self, digest: str, adapter: Adapter, file: Path) -> None:
        numbers = sum(count for name, count in weights.numbers_in(file).items() if not name.endswith(".alpha"))
        size, limit = numbers * self._dtype.itemsize, self._files.limit_mib * 2**20
        if size > limit:
            # Not refused for good: the limit may be raised.
            raise AdapterError(
                f"lora: {adapter.source} needs {math.ceil(size / 2**20)} MiB, and adapters may take "
                f"{self._files.limit_mib}: raise adapterMemoryMiB"
            )
        while self._loaded and (len(self._loaded) >= MOST_LOADED or sum(self._loaded.values()) + size > limit):
            self._unload(next(iter(self._loaded)))
        self._applied = None
        try:
            self._pipe.load_lora_weights(
                file.parent, weight_name=file.name, adapter_name=digest, local_files_only=True, use_safetensors=True
            )
            there = self._numbers_of(digest)
        except Exception as error:
            self._unload(digest)
            if is_out_of_memory(error):
                raise OutOfMemory(f"out of memory while {adapter.source} was loaded: lower adapterMemoryMiB") from error
            raise self._refused(
                digest, f"{adapter.source} does not fit the networks: {weights.first_line(error)}"
            ) from error
        if there < numbers:
            self._unload(digest)
            fits = f"they have a place for {there} of its {numbers} numbers"
            raise self._refused(digest, f"{adapter.source} does not fit the networks: {fits}")
        self._loaded[digest] = there * self._dtype.itemsize
        # Loaded, some are larger than their file says, since parts of them are used in several layers.
        while len(self._loaded) > 1 and sum(self._loaded.values()) > limit:
            self._unload(next(iter(self._loaded)))

    def _unload(self, digest: str) -> None:
        """Take an adapter out of the networks, also one that was only loaded in part."""
        self._loaded.pop(digest, None)
        self._applied = None
        for network in self._networks:
            delete_adapter_layers(network, digest)

    def _numbers_of(self, digest: str) -> int:
        """How many numbers of an adapter are in the networks."""
        parameters = (each for network in self._networks for each in network.named_parameters())
        return sum(tensor.numel() for name, tensor in parameters if f".{digest}." in name)

    @property
    def _networks(self) -> list[torch.nn.Module]:
        """Those that adapters may change."""
        found = (getattr(self._pipe, name, None) for name in self._pipe._lora_loadable_modules)
        return [network for network in found if network is not None]

    def _refused(self, digest: str, problem: str) -> AdapterError:
        """Refuse this adapter from now on."""
        self._files.refuse(digest, problem)
        return AdapterError(f"lora: the adapter cannot be used: {problem}")

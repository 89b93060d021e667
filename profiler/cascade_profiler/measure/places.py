"""Where variants are measured: on the cores of this machine, or on its accelerator."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cascade_api.command import CommandFailed
from cascade_api.names import CPU_CLASS
from cascade_models.manifest import ManifestVariant

_ELSEWHERE: Final = ("field", "discriminator_field", "sizes_field", "sizes", "batch")
"""Fields of a variant that change neither images nor times: its place in the manifest, the largest request, and what
other sizes are offered."""


@dataclass(frozen=True)
class Place:
    """One accelerator class on this machine. ``hardware`` is the name of the device, ``cores`` are those of the CPU."""

    accelerator_class: str
    hardware: str
    cores: tuple[int, ...]

    @property
    def timed_core(self) -> int | None:
        """The core on which a replica is timed; None if it computes on an accelerator."""
        return self.cores[-1] if self.accelerator_class == CPU_CLASS else None

    @property
    def drawing_cores(self) -> tuple[int | None, ...]:
        """One entry for each replica that makes images at the same time: the core on which it runs, if any."""
        return self.cores if self.accelerator_class == CPU_CLASS else (None,)

    def memory_mib(self) -> int:
        """Memory in use on the accelerator, by all processes, in MiB; 0 for class cpu."""
        if self.accelerator_class == CPU_CLASS:
            return 0
        return int(_nvidia_smi("memory.used"))


def find_place(accelerator_class: str) -> Place:
    """The place on this machine where a class is measured; raises CommandFailed if there is none."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    if accelerator_class == CPU_CLASS:
        return Place(CPU_CLASS, _processor(), cores)
    return Place(accelerator_class, _nvidia_smi("name"), cores)


def identity(variant: ManifestVariant) -> dict[str, Any]:
    """The fields of a variant that decide what its images are and how long they take."""
    own = {name: value for name, value in dataclasses.asdict(variant).items() if name not in _ELSEWHERE}
    return {**own, "width": variant.width, "height": variant.height}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _nvidia_smi(field: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise CommandFailed(
            f"--class: no accelerator answers here ({error}): use a machine that has one, or --class {CPU_CLASS}"
        ) from None

"""Models in the diffusers layout: chooses the files that a pipeline needs, in the right number format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cascade_models.weights import SAFETENSORS, WeightsError

INDEX: Final = "model_index.json"
NETWORKS: Final = ("unet", "transformer", "vae", "text_encoder")
"""Prefixes of the names of components that must have weights."""
DENOISERS: Final = ("transformer", "unet")
"""The names of denoisers in pipelines."""
_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "float16": ("fp16", ""), "bfloat16": ("bf16", "", "fp16"), "float32": ("", "fp16", "bf16"),
}  # fmt: skip
"""Parts of file names for each number format, in order of preference."""


def pick(names: Sequence[str], components: Sequence[str], dtype: str, *, without: str = "") -> list[str]:
    """The files of a diffusers model that a pipeline with these components needs, in alphabetical order.

    Weights are read from safetensors only, in the number format ``dtype`` if there are several. ``without`` names a
    component whose weights are not needed. Raises WeightsError if a component lacks such weights.
    """
    wanted = [INDEX]
    for component in components:
        files = [name for name in names if name.startswith(f"{component}/")]
        wanted += [name for name in files if _is_configuration(name)]
        weights = [name for name in files if SAFETENSORS in name]
        if component != without:
            wanted += _of_format(weights, dtype)
        others = [name for name in files if name.endswith((".bin", ".pt", ".ckpt", ".msgpack", ".h5"))]
        if others and not weights:
            raise WeightsError(
                f"{component} only has weights in {others[0]}, but weights are read from safetensors: choose a "
                "revision or a source that has them"
            )
        if component.startswith(NETWORKS) and component != without and not weights:
            raise WeightsError(f"{component} has no weights: choose a revision or a source that has them")
    return sorted(wanted)


def variant_of(names: Sequence[str], dtype: str) -> str | None:
    """The argument ``variant`` for diffusers that fits the files that `pick` chose, or None."""
    there = {_format(name) for name in names if SAFETENSORS in name}
    return next((kind for kind in _FORMATS[dtype] if kind and kind in there), None)


def _of_format(names: Sequence[str], dtype: str) -> list[str]:
    for wanted in _FORMATS[dtype]:
        chosen = [name for name in names if _format(name) == wanted]
        if chosen:
            return chosen
    return []


def _format(name: str) -> str:
    parts = name.rpartition("/")[2].replace("-", ".").split(".")
    return next((kind for kind in ("fp16", "bf16", "non_ema", "ema_only") if kind in parts), "")


def _is_configuration(name: str) -> bool:
    return name.endswith((".json", ".txt", ".model", ".jinja")) and SAFETENSORS not in name

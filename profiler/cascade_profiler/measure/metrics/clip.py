"""CLIP scores from a model in a local folder: how well an image fits its prompt, and distances in CLIP's image space.

It works with each model that transformers can load as CLIP: CLIP itself, and PickScore, which is a CLIP trained on
human preferences. Nothing is downloaded. It needs torch and transformers, which the profiler does not install: run the
profiler in an environment that has them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from cascade_api.command import CommandFailed
from cascade_api.profile import Metric

from ..workload import Workload
from .judge import Floats, Images, Verdicts

SCORE: Final = "clip"
DISTANCE: Final = "fd-clip"
FILES: Final = ("config.json", "model.safetensors")
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
BATCH: Final = 16
DIRECTIONS: Final = 64
"""The distance is measured in the directions in which true images vary most; all 512 would need far more images."""


class ClipJudge:
    """Measures ``clip``, 100 times the cosine of image and prompt, and ``fd-clip`` if true images are given."""

    def __init__(self, model: Any, processor: Any, *, identity: str, reference: Sequence[Path]) -> None:
        self._model = model
        self._processor = processor
        self._reference = reference
        self.identity = identity
        self.means: Sequence[Metric] = (
            Metric(name=SCORE, direction="max", meaning="100 times the cosine of CLIP's image and prompt"),
        )
        of = (
            f"to {len(reference)} true images; up to {DIRECTIONS} principal directions of image embeddings ({identity})"
        )
        self.distances: Sequence[Metric] = (
            (Metric(name=DISTANCE, direction="min", meaning=f"Fréchet distance {of}"),) if reference else ()
        )

    @classmethod
    def load(cls, folder: Path, *, reference: Path | None) -> ClipJudge:
        """The judge with the CLIP model in a folder; raises CommandFailed if it is incomplete or cannot be loaded."""
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise CommandFailed(
                f"--metric clip={folder}: lacks {', '.join(missing)}: download the whole model, for example "
                "`hf download openai/clip-vit-base-patch32 --local-dir FOLDER`, weights as safetensors",
                code=2,
            )
        pictures = _pictures(reference) if reference is not None else ()
        try:
            torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
        except ModuleNotFoundError as error:
            raise CommandFailed(
                f"--metric clip: {error.name} is not installed here: run the profiler in an environment with torch and "
                "transformers",
                code=2,
            ) from None
        try:
            model = transformers.CLIPModel.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True
            ).eval()
            processor = transformers.CLIPProcessor.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the libraries have no common exception for a folder that is wrong
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CommandFailed(
                f"--metric clip={folder}: is not a CLIP model that can be read: {first}", code=2
            ) from None
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, processor, identity=f"clip-{_digest(folder / FILES[1])}", reference=pictures)

    def judge(self, images: Images, workload: Workload, start: int) -> Verdicts:
        prompts = workload.prompts[start : start + len(images)]
        seen = self._embed_images([Image.fromarray(image) for image in images])
        read = self._embed_prompts(prompts)
        values = 100 * (seen * read).sum(axis=1)
        return Verdicts({SCORE: values}, {DISTANCE: seen @ self._directions} if self.distances else {})

    def reference(self, workload: Workload) -> Mapping[str, Floats]:
        return {DISTANCE: self._true @ self._directions} if self.distances else {}

    @functools.cached_property
    def _true(self) -> Floats:
        """Embeddings of the true images."""
        parts = [self._reference[at : at + BATCH] for at in range(0, len(self._reference), BATCH)]
        return np.concatenate([self._embed_images([_open(file) for file in part]) for part in parts])

    @functools.cached_property
    def _directions(self) -> Floats:
        """The directions as ``[K, 64]``, or fewer if there are fewer true images."""
        centred = self._true - self._true.mean(axis=0)
        values: Floats = np.linalg.svd(centred, full_matrices=False)[2][:DIRECTIONS].T
        return values

    def _embed_images(self, images: Sequence[Image.Image]) -> Floats:
        return self._embed(self._processor(images=list(images), return_tensors="pt"), "get_image_features")

    def _embed_prompts(self, prompts: Sequence[str]) -> Floats:
        words = self._processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True)
        return self._embed(words, "get_text_features")

    def _embed(self, inputs: Any, method: str) -> Floats:
        import torch

        with torch.inference_mode():
            found = getattr(self._model, method)(**inputs.to(self._model.device))
        # Newer releases of transformers return an object.
        rows = np.asarray(getattr(found, "pooler_output", found).float().cpu().numpy(), dtype=np.float64)
        unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def _pictures(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(file for file in folder.glob("**/*") if file.suffix.lower() in PICTURES))
    if len(files) < 2:
        raise CommandFailed(
            f"--reference: {folder} has {len(files)} images ({', '.join(PICTURES)}): at least 2 are needed", code=2
        )
    return files


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise CommandFailed(f"--reference: {file} cannot be read: {error}", code=2) from None


def _digest(file: Path) -> str:
    with file.open("rb") as weights:
        digest = hashlib.sha256()
        while part := weights.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:12]

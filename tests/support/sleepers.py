"""Models for a real Triton that sleep instead of computing, for measurements of everything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from cascade_router.pools.clients import FORMATS

from .triton import TritonServer, model_of

NOT_DRAWN: Final = 1_313_131_313
"""A seed with which the models refuse to draw."""
MODEL: Final = '''
"""Sleeps for its time per batch, then answers each request with one and the same image and a random confidence.

Of a prompt it reads 77 words, and it draws nothing with the seed NOT_DRAWN.
"""

import json
import pathlib
import random
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._seconds = float(parameters["seconds"]["string_value"])
        folder = pathlib.Path(args["model_repository"], args["model_version"])
        self._pixels = np.load(folder / "image.npy")[None]
        files = {path.suffix[1:]: path.read_bytes() for path in folder.glob("image.*")}
        self._encoded = {name: np.array([[file]], np.object_) for name, file in files.items()}

    def execute(self, requests):
        time.sleep(self._seconds)
        return [self._response(request, len(requests)) for request in requests]

    def _tokens(self, request):
        (prompt,) = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy().reshape(-1)
        words = len(prompt.split())
        return np.array([[words, min(words, 77)]], np.int32)

    def _response(self, request, images):
        seed = pb_utils.get_input_tensor_by_name(request, "seed")
        if seed is not None and seed.as_numpy().item() == NOT_DRAWN:
            error = pb_utils.TritonError("prompt: NOT_DRAWN is no seed for it", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        made = {
            "image": lambda: self._pixels,
            "image_encoded": lambda: self._encoded[json.loads(request.parameters())["image_format"]],
            "confidence": lambda: np.full((1, 1), random.random(), np.float32),
            "batch_time": lambda: np.array([[self._seconds, images]], np.float32),
            "prompt_tokens": lambda: self._tokens(request),
        }
        tensors = [pb_utils.Tensor(name, made[name]()) for name in made if name in request.requested_output_names()]
        return pb_utils.InferenceResponse(output_tensors=tensors)
'''

CONFIG: Final = """
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "prompt" data_type: TYPE_STRING dims: [1] }},
  {{ name: "negative_prompt" data_type: TYPE_STRING dims: [1] optional: true }},
  {{ name: "seed" data_type: TYPE_INT64 dims: [1] optional: true }}
]
output [
  {{ name: "image" data_type: TYPE_UINT8 dims: [{side}, {side}, 3] }},
  {{ name: "image_encoded" data_type: TYPE_STRING dims: [1] }},
  {{ name: "confidence" data_type: TYPE_FP32 dims: [1] }},
  {{ name: "batch_time" data_type: TYPE_FP32 dims: [2] }},
  {{ name: "prompt_tokens" data_type: TYPE_INT32 dims: [2] }}
]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
dynamic_batching {{ }}
parameters {{ key: "seconds" value {{ string_value: "{seconds}" }} }}
parameters {{ key: "side" value {{ string_value: "{side}" }} }}
"""


def write_sleepers(
    directory: Path, seconds: Mapping[str, float], *, batch: int = 8, instances: int = 2, side: int = 32
) -> Path:
    """A model repository of models by variant (see `model_of`) and seconds per batch.

    Images are noise, whose files are as large as files get, but for the small ones, which are grey.
    """
    grey = np.full((side, side, 3), 128, np.uint8)
    pixels = grey if side == 32 else np.random.default_rng(0).integers(0, 256, grey.shape, np.uint8)
    for variant, each in seconds.items():
        name = model_of(variant)
        folder = directory / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(MODEL.replace("NOT_DRAWN", str(NOT_DRAWN)))
        np.save(folder / "image.npy", pixels)
        for form in FORMATS:
            Image.fromarray(pixels).save(folder / f"image.{form}", compress_level=1)
        config = CONFIG.format(name=name, batch=batch, instances=instances, seconds=each, side=side)
        (folder.parent / "config.pbtxt").write_text(config)
    return directory


SECONDS: Final = {"shapes-light": 0.1, "shapes-heavy": 0.2}
"""What the models of `sleeper_triton` take for a batch."""


@pytest.fixture(scope="session")
def sleeper_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One server for the whole run whose models draw grey images of any prompt; not to be killed or reloaded."""
    directory = tmp_path_factory.mktemp("sleepers")
    models = write_sleepers(directory / "models", SECONDS, instances=1)
    server = TritonServer(models, directory, load=tuple(SECONDS), replica_id="test-sleepers")
    try:
        yield server.start()
    finally:
        server.stop()

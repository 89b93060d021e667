"""If a model cannot be served, the error is one line with the fix, and nothing incomplete is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.tiny_model import run_there

pytestmark = pytest.mark.contract

SAID = {
    "revision": "WeightsError: .* has revision [0-9a-f]{64}, not 0{64}: write that revision instead",
    "no folder": "WeightsError: no folder /none: mount it|RecipeError: file:///none has no model_index.json",
    "catalogue": "RecipeError: .* is a StableDiffusionPipeline, not the FluxPipeline that the catalogue says",
    "tensorrt": "EngineError: engine tensorrt needs a GPU, and there is none here: use engine",
    "size": "RecipeError: .* makes images of 32x32 where the manifest says 40x40: write 32x32",
    "mistaken": "EngineError: ONNX Runtime differs from torch for .*: use engine diffusers",
    "memory": "OutOfMemory: out of memory at batch size 256",
    "image needed": "RecipeError: .* is a StableDiffusionImg2ImgPipeline, which does not make images from text alone",
    "unknown class": "RecipeError: .* is a StableDiffusion9Pipeline, which diffusers [0-9.]+ does not have",
    "no index": "RecipeError: .* model_index.json names no pipeline class",
    "cut off": "WeightsError: .*unet/diffusion_pytorch_model.safetensors is corrupt .*: remove it and start again",
    "no header": "WeightsError: .*unet/diffusion_pytorch_model.safetensors is corrupt .*: remove it and start again",
    "another network": "EngineError: .* holds [0-9]+ numbers where UNet2DConditionModel has [0-9]+: it is another",
}


def test_every_reason_is_one_line_with_the_fix(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    said = json.loads(run_there("diffusion_refusals.py", tiny / "model", tmp_path).splitlines()[-1])
    assert said.keys() == SAID.keys()
    unlike = {name: text for name, text in said.items() if not re.fullmatch(f"(?:{SAID[name]}).*", text)}
    assert not unlike
    assert not list((tmp_path / "cache").glob("cascade/engines/*")), "a wrong export is not kept"

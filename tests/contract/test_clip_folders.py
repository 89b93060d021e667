"""CLIP models that discriminators are trained over, and prompts: they are served as CLIP's own tokenizer reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.tiny_model import run_there

pytestmark = pytest.mark.contract

LOADED = "sdpa torch.float32"
SAID = {
    "whole": LOADED,
    "elsewhere": LOADED,
    "position ids": LOADED,
    "no tokens": "--clip: .*/no-tokens lacks vocab.json, merges.txt: download the whole model, weights as safetensors",
    "pickled": "--clip: .*/pickled lacks model.safetensors: download the whole model, weights as safetensors",
    "no json": r"--clip: .*/no-json/config.json is not CLIP's \(JSONDecodeError.*\)",
    "another model": r"--clip: .*/config.json is not CLIP's \(.*its model_type is 'bert'.*\)",
    "sizes": r"--clip: .*/config.json is not CLIP's \(.*not a multiple of the number of attention heads.*\)",
    "cut off": r"--clip: .*/model.safetensors is corrupt \(.*\): download it again",
    "lost": "--clip: .*/model.safetensors lacks visual_projection.weight, or has it in another shape",
    "shape": "--clip: .*/model.safetensors lacks visual_projection.weight, or has it in another shape",
}


def test_a_folder_is_read_without_what_else_it_names_or_refused_in_one_line(tmp_path: Path) -> None:
    found = json.loads(run_there("clip_folders.py", tmp_path).splitlines()[-1])
    assert found["folders"].keys() == SAID.keys()
    unlike = {name: text for name, text in found["folders"].items() if not re.fullmatch(SAID[name], text)}
    assert not unlike
    assert not found["differing"], "prompts that are served otherwise"

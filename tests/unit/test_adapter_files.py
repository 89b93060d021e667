"""Files of adapters: which are found, what is said of others, and how a running model learns of new ones."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest

from cascade_models import repository, weights
from cascade_models.pipelines.adapter_files import RETRY_S, AdapterFiles, fetch
from cascade_models.pipelines.pipeline import AdapterError
from cascade_models.recipe import Adapter, Recipe, RecipeError, Settings
from cascade_models.serving.following import Following
from support.waiting import wait_for


def adapter_in(folder: Path, *files: str, tensor: str = "unet.to_q.lora_A.weight", wanted: str = "") -> Adapter:
    """An adapter whose source has these files, each of one tensor of 4 bytes."""
    header = json.dumps({tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return Adapter(f"file://{folder}", weights.revision_of(folder), wanted, 1.0)


def test_the_file_is_the_one_that_is_named_or_the_only_one(tmp_path: Path) -> None:
    only = adapter_in(tmp_path / "only", "ink.safetensors", "README.md")
    assert fetch(only, limit_mib=1) == tmp_path / "only" / "ink.safetensors"
    named = adapter_in(tmp_path / "named", "ink.safetensors", "oil.safetensors", wanted="oil.safetensors")
    assert fetch(named, limit_mib=1) == tmp_path / "named" / "oil.safetensors"


def test_an_adapter_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    for adapter, limit_mib, said in (
        (adapter_in(tmp_path / "none", "README.md"), 1, "has 0 safetensors files: name one in weightName"),
        (adapter_in(tmp_path / "two", "a.safetensors", "b.safetensors"), 1, "a.safetensors, b.safetensors"),
        (adapter_in(tmp_path / "outside", "a.safetensors", wanted="../two/a.safetensors"), 1, "has no file ../two/a"),
        (adapter_in(tmp_path / "large", "a.safetensors"), 0, "raise adapterMemoryMiB"),
        (adapter_in(tmp_path / "dora", "a.safetensors", tensor="to_q.dora_scale"), 1, "is a DoRA"),
    ):
        with pytest.raises(RecipeError, match=said):
            fetch(adapter, limit_mib=limit_mib)


def test_what_is_missing_is_looked_for_again_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    files = AdapterFiles(clock=lambda: now[0])
    adapter = adapter_in(tmp_path / "ink", "ink.safetensors", wanted="ink.safetensors")
    (tmp_path / "ink").rename(tmp_path / "away")
    offered = {adapter.digest: adapter}
    with pytest.raises(AdapterError, match="lora: the adapter is not here yet"):
        files.find(adapter.digest)
    files.offer(offered, limit_mib=1)
    with pytest.raises(AdapterError, match=r"lora: the adapter cannot be used: .* has no file ink\.safetensors"):
        files.find(adapter.digest)
    (tmp_path / "away").rename(tmp_path / "ink")
    files.offer(offered, limit_mib=1)
    with pytest.raises(AdapterError):
        files.find(adapter.digest)
    now[0] += RETRY_S
    files.offer(offered, limit_mib=1)
    assert files.find(adapter.digest) == (adapter, tmp_path / "ink" / "ink.safetensors")
    files.offer({}, limit_mib=1)
    assert files.find(adapter.digest), "requests for it may be under way"


def test_a_running_model_follows_its_config(tmp_path: Path) -> None:
    recipe = Recipe(
        source="hf://me/mine", revision="0" * 40, weights="", engine="diffusers", precision="", height=8, width=8,
        discriminator="", batch=1, settings={"a": Settings(1)},
    )  # fmt: skip
    adapter = Adapter("hf://owner/ink", "1" * 40, "", 0.5)
    config, seen = tmp_path / "config.pbtxt", list[Recipe]()
    following = Following(config, seen.append, every_s=0.01)
    try:
        # The file is not there yet, and then half written: neither ends the thread.
        config.write_text("name: ")
        for each in (recipe, dataclasses.replace(recipe, adapters={adapter.digest: adapter})):
            config.write_text(repository.config("mine", each))
            wait_for(lambda each=each: seen and seen[-1] == each, what="the model to follow")  # type: ignore[misc]
    finally:
        following.close()
    wait_for(lambda: all(thread.name != "following" for thread in threading.enumerate()), what="the thread to end")

"""Weights from a hub into the cache, with the hub's own client: interrupted, damaged, gated, offline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from support.hub import COMMIT, Hub, serving
from support.resources import cascade_document
from support.tiny_model import ENVIRONMENT, LOADING_S

CASCADE = Path(sys.executable).parent / "cascade"
BIG = "unet/diffusion_pytorch_model.safetensors"
SAFETENSORS = 25_000_000
"""Bytes of the big file's tensor; the hub's client writes ten million at a time."""

pytestmark = pytest.mark.contract


def safetensors(size: int) -> bytes:
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + np.random.default_rng(0).bytes(size)


def write_model(folder: Path) -> Path:
    """A model in the diffusers layout, as far as a download looks at it."""
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
             "safety_checker": ["x", "y"], "tokenizer": ["transformers", "CLIPTokenizer"]}  # fmt: skip
    files = {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": b'{"in_channels": 4}',
        BIG: safetensors(SAFETENSORS),
        "unet/diffusion_pytorch_model.fp16.safetensors": safetensors(1000),
        "unet/diffusion_pytorch_model.bin": b"pickled",
        "safety_checker/model.safetensors": safetensors(10),
        "tokenizer/vocab.json": b"{}",
        "README.md": b"about",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name, content in {"ink.safetensors": safetensors(3_000_000), "ink.bin": b"pickled", "a.png": b"shown"}.items():
        (adapter / name).write_bytes(content)
    with serving({"tests/tiny": write_model(tmp_path / "repository"), "tests/ink": adapter}) as running:
        yield running


class Fetching:
    """`cascade model-repo fetch` of a manifest with one model."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.cache, self._file = hub, folder / "cache", folder / "cascade.yaml"
        self.more: dict[str, object] = {}
        """Further fields of the variant."""

    def __call__(self, model: dict[str, object] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        document = cascade_document()
        (variant, _) = document["spec"]["variants"]
        variant["model"] |= {"source": "hf://tests/tiny", "revision": COMMIT, **(model or {})}
        document["spec"]["variants"] = [{**variant, **self.more}]
        document["spec"]["discriminator"] = {"source": "file:///judge"}
        self._file.write_text(yaml.safe_dump(document))
        return self.run("fetch", "--cpu", "-f", str(self._file), **environment)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        ours = {
            **self.hub.environment, "HF_HOME": str(self.cache), "HF_HUB_DISABLE_TELEMETRY": "1",
            "CASCADE_TRITON_ENV": str(ENVIRONMENT),
        }  # fmt: skip
        return subprocess.run(
            [CASCADE, "model-repo", *arguments], capture_output=True, text=True, check=False, timeout=LOADING_S,
            env={**os.environ, **ours, **environment},
        )  # fmt: skip

    def refused(self, model: dict[str, object] | None = None, **environment: str) -> str:
        """The one line that says why not."""
        done = self(model, **environment)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    def fetched(self) -> set[str]:
        return {name for name, _ in self.hub.served}


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Fetching:
    return Fetching(hub, tmp_path)


def test_only_what_the_pipeline_needs_is_fetched_once_and_then_needs_no_network(hub: Hub, fetch: Fetching) -> None:
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert fetch.fetched() == {"model_index.json", "unet/config.json", BIG, "tokenizer/vocab.json"}
    assert f"fetching tests/tiny 3/3: {BIG}, 25 MB" in done.stderr
    folder = Path(done.stdout.split(": ", 1)[1].strip())
    assert (folder / BIG).read_bytes() == safetensors(SAFETENSORS)
    hub.asked = 0
    again = fetch(HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert hub.asked == 0


def test_the_file_of_an_adapter_comes_along_unless_it_is_too_large(hub: Hub, fetch: Fetching) -> None:
    adapter = {"name": "ink", "source": "hf://tests/ink", "revision": COMMIT}
    fetch.more = {"adapters": [adapter], "adapterMemoryMiB": 2}
    assert "ink.safetensors of hf://tests/ink has 3 MiB, and adapters may take 2: raise adapter" in fetch.refused()
    assert "ink.safetensors" not in fetch.fetched()
    fetch.more = {"adapters": [adapter]}
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert {"ink.safetensors"} == {name for name in fetch.fetched() if name.endswith((".bin", ".png")) or "ink" in name}
    hub.asked = 0
    assert fetch(HF_HUB_OFFLINE="1").returncode == 0
    assert hub.asked == 0
    fetch.more = {"adapters": [{**adapter, "weightName": "other.safetensors"}]}
    assert "hf://tests/ink has no file other.safetensors" in fetch.refused()


def test_an_interrupted_download_is_not_taken_for_whole_and_goes_on_where_it_stopped(hub: Hub, fetch: Fetching) -> None:
    hub.cut_after = 15_000_000
    said = fetch.refused()
    assert "broke off" in said
    assert "start again, and it continues where it stopped" in said
    assert not list(fetch.cache.glob(f"hub/models--*/snapshots/*/{BIG}"))
    assert "is not complete in" in fetch.refused(HF_HUB_OFFLINE="1")
    hub.cut_after, hub.served = None, []
    assert fetch().returncode == 0
    (start,) = (start for name, start in hub.served if name == BIG)
    assert start >= 10_000_000


def test_a_damaged_file_is_removed_and_fetched_anew(hub: Hub, fetch: Fetching) -> None:
    hub.spoiled = {BIG}
    assert f"{BIG} of hf://tests/tiny was damaged" in fetch.refused()
    hub.spoiled, hub.served = set(), []
    assert fetch().returncode == 0
    assert fetch.fetched() == {BIG}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"source": "hf://tests/none"}, "there is no model hf://tests/none, or it is private"),
        ({"revision": "f" * 40}, "has no revision f.*`cascade model-repo resolve hf://tests/tiny`"),
    ],
)
def test_what_the_hub_does_not_have_is_named_with_the_fix(fetch: Fetching, model: dict[str, object], said: str) -> None:

    assert re.search(said, fetch.refused(model))


def test_a_gated_model_needs_the_token_of_somebody_who_accepted(hub: Hub, fetch: Fetching) -> None:
    hub.gated = {"tests/tiny"}
    said = fetch.refused()
    assert "hf://tests/tiny is gated" in said
    assert "HF_TOKEN" in said
    wrong = fetch.refused(HF_TOKEN="hf_expired")  # noqa: S106
    assert "the hub refuses hf://tests/tiny" in wrong
    assert "Invalid credentials" in wrong
    assert "give a token in HF_TOKEN that is valid" in wrong
    assert fetch(HF_TOKEN=hub.token).returncode == 0


def test_a_model_that_lacks_the_weights_of_a_part_is_refused_before_anything_large_is_fetched(
    hub: Hub, fetch: Fetching
) -> None:
    for file in hub.repositories["tests/tiny"].glob("unet/diffusion_*"):
        file.unlink()
    assert "hf://tests/tiny: unet has no weights: choose a revision or a source that has them" in fetch.refused()
    assert fetch.fetched() == {"model_index.json"}


def test_weights_that_are_no_safetensors_are_refused(hub: Hub, fetch: Fetching) -> None:
    folder = hub.repositories["tests/tiny"]
    for file in folder.glob("unet/*.safetensors"):
        file.unlink()
    assert "unet only has weights in unet/diffusion_pytorch_model.bin" in fetch.refused()


def test_a_repository_that_is_no_diffusers_model_is_refused(hub: Hub, fetch: Fetching) -> None:
    (hub.repositories["tests/tiny"] / "model_index.json").unlink()
    assert "has no model_index.json: it is not in the diffusers layout" in fetch.refused()


def test_a_hub_that_is_away_is_said_to_be_away(fetch: Fetching) -> None:
    said = fetch.refused(HF_ENDPOINT="http://127.0.0.1:9")
    assert "start again" in said
    assert "HF_ENDPOINT" in said


def test_a_branch_is_resolved_to_the_commit_that_a_manifest_pins(fetch: Fetching) -> None:
    done = fetch.run("resolve", "hf://tests/tiny")
    assert (done.returncode, done.stdout.strip()) == (0, COMMIT), done.stderr
    missing = fetch.run("resolve", "hf://tests/none")
    assert missing.returncode == 2
    assert "there is no model" in missing.stderr

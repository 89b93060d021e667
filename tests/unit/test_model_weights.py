"""Which files of a model are used, which count as complete, and what is built once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade_models import layout, weights
from cascade_models.engines import EngineError, building, is_out_of_memory, tensorrt
from cascade_models.weights import WeightsError

SDXL = [
    "README.md", "model_index.json", "sd_xl_base_1.0.safetensors", "scheduler/scheduler_config.json",
    "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors",
    "text_encoder/flax_model.msgpack", "tokenizer/merges.txt", "tokenizer/vocab.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors",
]  # fmt: skip
PARTS = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]
SHARDED = [
    "text_encoder_2/config.json", "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors", "text_encoder_2/model.fp16-00001-of-00002.safetensors",
    "text_encoder_2/model.fp16-00002-of-00002.safetensors", "text_encoder_2/model.safetensors.index.json",
    "text_encoder_2/model.safetensors.index.fp16.json",
]  # fmt: skip


def safetensors(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_weights_are_taken_in_the_format_wanted_and_in_another_only_where_there_is_none() -> None:
    picked = layout.pick(SDXL, PARTS, "float16")
    assert [name for name in picked if name.endswith(".safetensors")] == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert layout.variant_of(picked, "float16") == "fp16"
    plain = layout.pick(SDXL, PARTS, "float32")
    assert not [name for name in plain if "fp16" in name]
    assert layout.variant_of(plain, "float32") is None
    assert not {"README.md", "sd_xl_base_1.0.safetensors"} & {*picked, *plain}


def test_shards_come_with_their_index() -> None:
    picked = layout.pick(SHARDED, ["text_encoder_2"], "float16")
    assert {name for name in picked if "0000" in name} == {name for name in SHARDED if "fp16-" in name}
    assert "text_encoder_2/model.safetensors.index.fp16.json" in picked


def test_a_base_is_taken_without_its_denoisers_weights() -> None:
    picked = layout.pick(SDXL, PARTS, "float16", without="unet")
    assert [name for name in picked if name.startswith("unet")] == ["unet/config.json"]


def test_pickled_weights_are_never_taken() -> None:
    names = ["unet/config.json", "unet/diffusion_pytorch_model.bin"]
    with pytest.raises(WeightsError, match="read from safetensors"):
        layout.pick(names, ["unet"], "float32")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff" * 16, safetensors(b"[]", b""), safetensors(b"{", b""), safetensors(b'{"a": {}}', b"12"),
        safetensors(b'{"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}', b"12"),
        safetensors(b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"12"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_its_header_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors is corrupt .*: remove it and start again"):
        weights.check_safetensors(tmp_path / "model.safetensors")


def test_a_whole_file_tells_how_many_numbers_it_holds(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [2, 3], "data_offsets": [0, 6]}, "__metadata__": {}}).encode()
    (tmp_path / "model.safetensors").write_bytes(safetensors(header, b"123456"))
    assert weights.check_safetensors(tmp_path / "model.safetensors") == 6


def test_what_is_built_is_built_once_by_all_that_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    built: list[str] = []

    def build(folder: Path) -> None:
        built.append(folder.name)
        (folder / "model.onnx").write_text("network")

    first = building.built({"revision": "a", "gpu": "L4"}, build)
    assert building.built({"gpu": "L4", "revision": "a"}, build) == first
    assert building.built({"revision": "a", "gpu": "H100"}, build) != first
    assert len(built) == 2
    assert (first / "model.onnx").read_text() == "network"


def test_what_failed_to_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def build(folder: Path) -> None:
        (folder / "model.onnx").write_text("half")
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        building.built({"revision": "a"}, build)
    assert not list((tmp_path / "cascade" / "engines").iterdir())


def test_a_tensorrt_engine_covers_one_unguided_image_to_the_largest_guided_batch() -> None:
    shapes = {"sample": (2, 4, 64, 64), "timestep": ()}
    ranges = tensorrt.ranges(shapes, {"sample": [0], "timestep": []}, batch=8)
    assert ranges["sample"] == tensorrt.Range((1, 4, 64, 64), (8, 4, 64, 64), (16, 4, 64, 64))
    assert ranges["timestep"] == tensorrt.Range((), (), ())


@pytest.mark.parametrize(
    ("said", "so"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", True),
        ("Failed to allocate memory for requested buffer of size 9", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_memory_that_ran_out_is_known_by_what_libraries_say(said: str, so: bool) -> None:
    assert is_out_of_memory(RuntimeError(said)) is so

"""The shipped weights are complete, small and usable; damaged ones are refused with the file and the fix."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from cascade_models.shapes import assets, checker, grammar, sampling, tokens


@pytest.fixture
def weights(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(assets.WEIGHTS, tmp_path / "weights"))


def test_the_shipped_weights_are_whole_and_small() -> None:
    known = assets.verify()
    assert set(known.variants) == {"heavy", "light"}
    assert sum(file.stat().st_size for file in assets.WEIGHTS.iterdir()) <= 12_000_000


def test_the_revision_follows_every_weight_file(weights: pathlib.Path) -> None:
    before = assets.revision(weights)
    assert before == assets.revision()
    assert len(before) == 64
    for name in assets.digests(weights):
        original = (weights / name).read_bytes()
        (weights / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        assert assets.revision(weights) != before
        (weights / name).write_bytes(original)
    assert assets.revision(weights) == before


@pytest.mark.parametrize("name", ["heavy.onnx", "heavy.int8.onnx", "light.safetensors", "metadata.json"])
def test_a_missing_file_is_named_with_the_fix(weights: pathlib.Path, name: str) -> None:
    (weights / name).unlink()
    with pytest.raises(assets.AssetError, match=f"{name} does not exist; run `make models`"):
        assets.verify(weights)


@pytest.mark.parametrize("name", ["heavy.onnx", "light.int8.onnx", "light.safetensors", "metadata.json"])
def test_a_truncated_file_is_named_with_the_fix(weights: pathlib.Path, name: str) -> None:
    (weights / name).write_bytes((weights / name).read_bytes()[:100])
    with pytest.raises(assets.AssetError, match=f"{name} .*; run `make models`"):
        assets.verify(weights)


def test_metadata_without_what_it_needs_is_refused(weights: pathlib.Path) -> None:
    (weights / "metadata.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(assets.AssetError, match="not understood"):
        assets.metadata(weights)


def test_the_variants_draw_an_easy_prompt_right() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(model: assets.ModelName) -> object:
        return onnxruntime.InferenceSession(assets.path(model), options, providers=["CPUExecutionProvider"])

    scene = grammar.parse("a large red circle")
    words, seeds = tokens.encode_all([scene] * 4), [1, 2, 3, 4]
    for variant in assets.metadata().variants.values():
        network = session(variant.kind)
        images = sampling.generate(
            lambda x, t, words: network.run(["x0"], {"x": x, "t": t, "tokens": words})[0],  # type: ignore[attr-defined] # noqa: B023
            words,
            seeds,
            kind=variant.kind,
            steps=variant.steps,
            guidance=variant.guidance,
        )
        assert np.mean([checker.check(image, scene).strict for image in images]) >= 0.75
        wrong = tokens.encode_all([grammar.parse("a small green cross")] * 4)
        judge = session("discriminator")
        sure, unsure = (
            judge.run(["confidence"], {"image": sampling.from_image(images), "tokens": asked})[0]  # type: ignore[attr-defined]
            for asked in (words, wrong)
        )
        assert sure.shape == (4,)
        assert sure.mean() > 0.5 > unsure.max()

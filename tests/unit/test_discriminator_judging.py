"""Measures of confidences, and labelled images that cannot be used for training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade_models import judging
from cascade_models.discriminators.training import rows


def test_auc_is_the_chance_that_a_good_image_scores_above_a_bad_one() -> None:
    assert judging.auc(np.array([0.9, 0.8, 0.3]), np.array([1.0, 1.0, 0.0])) == 1.0
    assert judging.auc(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == 0.5
    assert np.isnan(judging.auc(np.array([0.5]), np.array([1.0])))


def test_probabilities_that_hold_have_no_calibration_error_and_others_have() -> None:
    rng = np.random.default_rng(0)
    true = rng.random(20_000)
    labels = (rng.random(20_000) < true).astype(float)
    assert judging.reliability(true, labels)[1] < 0.02
    assert judging.reliability(np.clip(true + 0.2, 0, 1), labels)[1] > 0.1


def test_overconfident_logits_are_brought_to_earth() -> None:
    rng = np.random.default_rng(4)
    true = rng.normal(0, 1, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-true))).astype(float)
    scale, offset = judging.platt(300 * true + 900, labels)
    assert scale == pytest.approx(1 / 300, rel=0.1)
    assert offset == pytest.approx(-3, abs=0.3)


def test_calibration_finds_scale_and_offset_of_the_logits() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(float)
    scale, offset = judging.platt(logits, labels)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert offset == pytest.approx(-1, abs=0.06)


def test_logits_that_are_wrong_get_the_base_rate_and_not_the_opposite() -> None:
    labels = np.array([1.0, 1.0, 1.0, 0.0] * 50)
    scale, offset = judging.platt(np.where(labels > 0.5, -2.0, 2.0), labels)
    assert scale == 0.0
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(0.75, abs=0.01)


def test_intervals_hold_the_figure_and_shrink_with_more_images() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for count in (100, 1600):
        chance = rng.random(count)
        labels = (rng.random(count) < chance).astype(float)
        low, high = judging.bootstrap(chance, labels, draws=200)["auc"]
        assert low < judging.auc(chance, labels) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "red.png")
    return tmp_path


def write(folder: Path, *lines: str, header: str = "image,prompt,label,score") -> Path:
    file = folder / "rows.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def test_every_bad_row_is_named_with_its_field(folder: Path) -> None:
    file = write(
        folder, "red.png,a prompt,1,", "blue.png,a prompt,1,", "red.png,,1,", "red.png,a prompt,3,",
        "red.png,a prompt,good,", "red.png,a prompt,,", "red.png,a prompt,,7.5", "red.png,a prompt,nan,",
    )  # fmt: skip
    with pytest.raises(rows.RowsError) as failed:
        rows.read(file, good_from=None)
    said = str(failed.value).splitlines()
    expected = (
        "3: image: no file", "4: prompt: is missing", "5: label: 3 is not between 0 and 1",
        "6: label: 'good' is not a number", "7: label: there is neither", "8: score: give the lowest",
        "9: label: 'nan' is not a finite number",
    )  # fmt: skip
    assert len(said) == len(expected)
    for line, part in zip(said, expected, strict=True):
        assert line.startswith(f"{file}:{part}")


@pytest.mark.parametrize(
    ("header", "said"),
    [("picture,prompt,label", "the header lacks image"), ("image,prompt", "the header lacks label or score")],
)
def test_a_header_without_a_column_is_refused(folder: Path, header: str, said: str) -> None:
    with pytest.raises(rows.RowsError, match=said):
        rows.read(write(folder, header=header), good_from=None)


def test_scores_become_labels_from_a_mark_on_and_prompts_stay_in_one_part(folder: Path) -> None:
    file = folder / "rows.jsonl"
    found = [{"image": "red.png", "prompt": f"prompt {at // 2}", "score": at % 2 + 6} for at in range(400)]
    file.write_text("\n".join(map(json.dumps, found)))
    read = rows.read(file, good_from=7)
    assert [row.label for row in read[:4]] == [0.0, 1.0, 0.0, 1.0]
    assert all(read[at].part == read[at + 1].part for at in range(0, 400, 2))
    assert {row.part for row in read} == {"train", "calibration", "test"}
    assert 0.6 < sum(row.part == "train" for row in read) / 400 < 0.8


def test_too_few_images_or_only_good_ones_are_refused(folder: Path) -> None:
    with pytest.raises(rows.RowsError, match="at least 40 are needed"):
        rows.read(write(folder, "red.png,a prompt,1,"), good_from=None)
    with pytest.raises(rows.RowsError, match="both kinds are needed"):
        rows.read(write(folder, *(f"red.png,prompt {at},1," for at in range(60))), good_from=None)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    row = rows.TrainingRow(folder / "broken.png", "a prompt", 1.0)
    with pytest.raises(rows.RowsError, match=r"broken\.png: cannot be read as an image"):
        rows.load([row], 16)
    assert rows.load([rows.TrainingRow(folder / "red.png", "a prompt", 1.0)], 16).shape == (1, 16, 16, 3)

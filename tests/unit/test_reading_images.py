"""The answer of a replica is accepted only if it contains an image."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from cascade_api.plan import PlanSettings, PlanVariant
from cascade_api.report import BatchTime
from cascade_router.pools.clients import (
    PIXELS,
    PNG_FILE,
    ImageForm,
    Prompt,
    PromptTokens,
    ReplicaFailed,
    infer_request,
    read_image,
)
from support.scripted_triton import PNG_BEGINS, response

VARIANT = PlanVariant(weights="abc", settings=PlanSettings(steps=8, guidance="4.5"), classes={})
JPEG = ImageForm(encoded="jpeg", quality=80)


def element(file: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<I", len(file) if length is None else length) + file


def outputs_of(form: ImageForm | None, *, confidence: bool = False) -> tuple[set[str], dict[str, Any]]:
    """The outputs that are asked for, beside what workers report, and the parameters, beside the settings."""
    request = infer_request(
        variant=VARIANT, prompt=Prompt("p"), form=form, confidence=confidence, request_id="r", size=(20, 10)
    )
    assert request.model_name == "weights-abc"
    parameters = {name: p.string_param or p.int64_param for name, p in request.parameters.items()}
    assert parameters.pop("size") == "20x10"
    assert (parameters.pop("steps"), parameters.pop("guidance")) == (8, "4.5")
    return {output.name for output in request.outputs} - {"batch_time", "prompt_tokens"}, parameters


def test_only_what_is_wanted_is_asked_for() -> None:
    assert outputs_of(PIXELS) == ({"image"}, {})
    assert outputs_of(PNG_FILE, confidence=True) == ({"image_encoded", "confidence"}, {"image_format": "png"})
    assert outputs_of(None, confidence=True) == ({"confidence"}, {})
    assert outputs_of(JPEG)[1] == {"image_format": "jpeg", "image_quality": 80}
    assert outputs_of(ImageForm(raw=True))[0] == {"image", "image_encoded"}
    assert outputs_of(ImageForm(encoded=""))[0] == {"image"}, (
        "a model answers with all it has where nothing is asked for"
    )


def test_a_file_is_read_as_it_is_and_has_the_size_of_the_plan() -> None:
    image = read_image(response(), form=PNG_FILE, size=(20, 10), confidence=True)
    assert (image.encoded, image.width, image.height, image.pixels) == (PNG_BEGINS, 20, 10, b"")
    both = read_image(response(), form=ImageForm(raw=True), size=(20, 10), confidence=False)
    assert (both.encoded, both.width, both.height, both.pixels) == (PNG_BEGINS, 2, 2, bytes(12))


@pytest.mark.parametrize(
    ("sent", "form", "why"),
    [
        (element(b""), PNG_FILE, "is not a png"),
        (element(b"\xff\xd8\xff"), PNG_FILE, "is not a png"),
        (element(PNG_BEGINS), JPEG, "is not a jpeg"),
        (element(PNG_BEGINS, length=3), PNG_FILE, "contains no encoded image"),
        (PNG_BEGINS, PNG_FILE, "contains no encoded image"),
        (b"", PNG_FILE, "contains no encoded image"),
    ],
)
def test_what_is_no_file_is_a_failure_of_the_replica(sent: bytes, form: ImageForm, why: str) -> None:
    with pytest.raises(ReplicaFailed, match=why):
        read_image(response(encoded=sent), form=form, size=(2, 2), confidence=False)


@pytest.mark.parametrize(
    ("seconds", "images", "read"),
    [(0.5, 3.0, BatchTime(images=3, seconds=0.5)), (float("nan"), 1.0, None), (0.5, 0.0, None), (-1.0, 1.0, None)],
)
def test_nonsense_about_the_batch_spoils_no_image(seconds: float, images: float, read: BatchTime | None) -> None:
    answer = response()
    answer.outputs.add(name="batch_time", datatype="FP32", shape=[1, 2])
    answer.raw_output_contents.append(struct.pack("<2f", seconds, images))
    assert read_image(answer, form=PNG_FILE, size=(2, 2), confidence=True).batch_time == read


@pytest.mark.parametrize(
    ("given", "read", "told"), [(90, 77, PromptTokens(90, 77)), (7, 7, PromptTokens(7, 7)), (7, 9, None), (7, -1, None)]
)
def test_nonsense_about_the_prompt_spoils_no_image(given: int, read: int, told: PromptTokens | None) -> None:
    answer = response()
    answer.outputs.add(name="prompt_tokens", datatype="INT32", shape=[1, 2])
    answer.raw_output_contents.append(struct.pack("<2i", given, read))
    assert read_image(answer, form=PNG_FILE, size=(2, 2), confidence=True).prompt_tokens == told
    assert PromptTokens(90, 77).cut
    assert not PromptTokens(7, 7).cut

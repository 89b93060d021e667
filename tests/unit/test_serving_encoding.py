"""Images are encoded as the request asks, beside the model's work and within limits."""

from __future__ import annotations

import io
import threading
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cascade_models.serving.encoding import SMALL_BYTES, Encoders, Form, encode
from support.waiting import PATIENCE_S, wait_for

LARGE = SMALL_BYTES + 1


def picture(side: int = 64) -> npt.NDArray[np.uint8]:
    """A smooth picture, as lossy forms like them."""
    steps = np.linspace(0, 255, side, dtype=np.uint8)
    return np.stack(np.broadcast_arrays(steps[:, None], steps[None, :], np.uint8(90)), axis=-1)


def read(file: bytes) -> tuple[str | None, npt.NDArray[np.uint8]]:
    with Image.open(io.BytesIO(file)) as image:
        return image.format, np.asarray(image)


def test_without_parameters_a_file_is_a_png_of_the_very_pixels() -> None:
    kind, pixels = read(encode(picture(), Form.read({})))
    assert kind == "PNG"
    np.testing.assert_array_equal(pixels, picture())


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_lossy_files_look_alike_and_are_smaller_at_a_lower_quality(form: str) -> None:
    kind, pixels = read(encode(picture(), Form.read({"image_format": form})))
    assert kind == form.upper()
    assert np.abs(pixels.astype(int) - picture().astype(int)).mean() < 4
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    worse, better = (len(encode(noise, Form.read({"image_format": form, "image_quality": q}))) for q in (10, 100))
    assert worse < better / 2


def test_quality_means_nothing_to_a_png() -> None:
    assert encode(picture(), Form("png", 1)) == encode(picture(), Form("png", 100))


def test_pixels_that_are_not_side_by_side_in_memory_are_encoded_too() -> None:
    _, pixels = read(encode(picture()[::2, ::-1], Form()))
    np.testing.assert_array_equal(pixels, picture()[::2, ::-1])


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"image_format": "gif"}, "image_format: 'gif' is not a form of images; write png, jpeg, webp"),
        ({"image_format": "PNG"}, "image_format: "),
        ({"image_format": ""}, "image_format: "),
        ({"image_format": 7}, "image_format: "),
        ({"image_format": ["png"]}, "image_format: "),
        ({"image_format": "x" * 10_000}, "image_format: "),
        ({"image_quality": 0}, "image_quality: 0 is not a quality; write a whole number of 1 to 100"),
        ({"image_quality": 101}, "image_quality: "),
        ({"image_quality": 50.0}, "image_quality: "),
        ({"image_quality": True}, "image_quality: "),
        ({"image_quality": "90"}, "image_quality: "),
        ({"image_quality": None}, "image_quality: "),
    ],
)
def test_a_wrong_parameter_is_named_with_what_to_write(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as refusal:
        Form.read(parameters)
    assert len(str(refusal.value)) < 200


class Tasks:
    """Tasks that are held until they are let go, and an account of what was done."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.done: list[str] = []
        self.begun: list[str] = []
        self.free = threading.Event()

    def hold(self, name: str) -> None:
        self.begun.append(name)
        assert self.free.wait(PATIENCE_S)
        self.done.append(name)


def test_large_ones_do_not_hold_up_whoever_brings_them_and_closing_waits_for_all() -> None:
    tasks = Tasks()
    encoders = Encoders(tasks.errors.append, threads=2)
    for name in "abc":
        encoders.do(partial(tasks.hold, name), LARGE)
    wait_for(lambda: sorted(tasks.begun) == ["a", "b"], what="both threads to be at work")
    assert tasks.done == []
    tasks.free.set()
    encoders.close()
    assert sorted(tasks.done) == ["a", "b", "c"]
    assert tasks.errors == []


def test_small_ones_are_done_at_once_by_whoever_brings_them() -> None:
    encoders = Encoders(Tasks().errors.append)
    places: list[threading.Thread] = []
    encoders.do(lambda: places.append(threading.current_thread()), SMALL_BYTES)
    assert places == [threading.current_thread()]
    encoders.close()


def test_who_brings_more_than_the_bound_waits_until_there_is_room() -> None:
    tasks = Tasks()
    encoders = Encoders(tasks.errors.append, threads=1, waiting_bytes=2 * LARGE)
    brought: list[str] = []

    def bring() -> None:
        for name in "abc":
            encoders.do(partial(tasks.hold, name), LARGE)
            brought.append(name)

    bringing = threading.Thread(target=bring)
    bringing.start()
    wait_for(lambda: brought == ["a", "b"] and tasks.begun == ["a"], what="two to be in hand")
    bringing.join(0.1)
    assert brought == ["a", "b"]
    tasks.free.set()
    bringing.join(PATIENCE_S)
    encoders.close()
    assert tasks.done == ["a", "b", "c"]


def test_one_that_is_larger_than_the_bound_is_taken_alone() -> None:
    tasks = Tasks()
    tasks.free.set()
    encoders = Encoders(tasks.errors.append, waiting_bytes=1)
    for name in "ab":
        encoders.do(partial(tasks.hold, name), LARGE)
    encoders.close()
    assert tasks.done == ["a", "b"]


@pytest.mark.parametrize("size", [1, LARGE])
def test_what_a_task_raises_is_told_and_makes_room(size: int) -> None:
    tasks = Tasks()
    encoders = Encoders(tasks.errors.append, threads=1, waiting_bytes=1)
    for _ in range(2):
        encoders.do(lambda: encode(np.zeros((0, 0, 3), np.uint8), Form()), size)
    encoders.close()
    assert len(tasks.errors) == 2

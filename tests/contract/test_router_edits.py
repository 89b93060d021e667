"""Clients give images, which are changed, whole or in part, by real models; files that cannot be used are named."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from cascade_models.shapes import checker, grammar, render
from cascade_router.given_images import FILE_LIMIT, PIXEL_LIMIT
from cascade_router.serving.http_bodies import FORM_LIMIT
from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, inputs_of, make_plan
from support.triton import TritonServer

pytestmark = pytest.mark.contract

VARIANTS = ("shapes-light", "shapes-heavy")
BEFORE, AFTER = "a large red circle", "a large blue square"
File = tuple[str, bytes, str]


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    drawn = render.render([grammar.parse(BEFORE)], np.random.default_rng(7))[0]
    pixels = render.to_uint8(drawn)
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels.transpose(1, 2, 0))


def start(server: RedisServer, shapes: TritonServer, start_router: StartRouter, **options: Any) -> RouterProcess:
    return start_router(server, make_plan({each: [shapes.endpoint] for each in VARIANTS}, **options))


@pytest.fixture
def router(redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    """Every light image is made again."""
    return start(redis_server, shared_triton, start_router, direct=0, escalation=1, overload="strict", edits=VARIANTS)


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def edit(router: RouterProcess, image: bytes, *, mask: bytes | None = None, **fields: Any) -> httpx.Response:
    files: dict[str, File] = {"image": ("a.png", image, "image/png")}
    if mask is not None:
        files["mask"] = ("m.png", mask, "image/png")
    data = {"prompt": AFTER, "seed": "3", **{name: str(value) for name, value in fields.items()}}
    return httpx.post(f"{router.http_url}/v1/images/edits", data=data, files=files, timeout=60)


def pictures(reply: httpx.Response) -> list[np.ndarray[Any, Any]]:
    assert reply.status_code == 200, reply.text
    files = (base64.b64decode(item["b64_json"]) for item in reply.json()["data"])
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


def problem(reply: httpx.Response, status: int = 400) -> tuple[str, str]:
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    return str(error["param"]), str(error["message"])


def half(size: tuple[int, int] = (32, 32)) -> bytes:
    """A mask: the right half is transparent, so it is drawn anew."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (size[0] // 2, 0, *size))
    return png(mask)


def test_the_scene_becomes_what_the_prompt_says_through_the_cascade(router: RouterProcess, scene: Image.Image) -> None:
    reply = edit(router, png(scene), n=2)
    after = grammar.parse(AFTER)
    assert [item["route"] for item in reply.json()["data"]] == ["escalated"] * 2
    assert max(checker.check(image, after).q2 for image in pictures(reply)) == 1.0
    assert not np.array_equal(*pictures(reply))


def test_a_low_strength_keeps_the_scene(router: RouterProcess, scene: Image.Image) -> None:
    given = np.asarray(scene).astype(int)
    far = [np.abs(pictures(edit(router, png(scene), strength=s))[0] - given).mean() for s in (0.05, 1)]
    assert far[0] < 4 < far[1]


def test_what_the_mask_keeps_is_kept_exactly(router: RouterProcess, scene: Image.Image) -> None:
    (image,) = pictures(edit(router, png(scene), mask=half()))
    assert np.array_equal(image[:, :16], np.asarray(scene)[:, :16])
    assert not np.array_equal(image[:, 16:], np.asarray(scene)[:, 16:])


def test_an_image_of_another_size_is_cut_and_scaled(router: RouterProcess, scene: Image.Image) -> None:
    wide = Image.new("RGB", (96, 64), "white")
    wide.paste(scene.resize((64, 64), Image.Resampling.NEAREST), (16, 0))
    (image,) = pictures(edit(router, png(wide), mask=half((96, 64))))
    assert np.abs(image[:, :15].astype(int) - np.asarray(scene)[:, :15]).mean() < 8


def test_a_stream_has_the_events_of_edits(router: RouterProcess, scene: Image.Image) -> None:
    reply = edit(router, png(scene), stream="true", partial_images=1)
    events = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
    assert events == ["image_edit.partial_image", "image_edit.completed"]


def test_kserve_takes_files(router: RouterProcess, scene: Image.Image) -> None:
    inputs = inputs_of(AFTER, seed=3)
    for name, file in {"image": png(scene), "mask": half()}.items():
        inputs.append(triton.InferInput(name, [1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([file], dtype=np.object_))
    image = router.client.infer("shapes", inputs, parameters={"strength": "0.8"}).as_numpy("image")
    assert np.array_equal(image[:, :16], np.asarray(scene)[:, :16])
    listed = [each.name for each in router.client.get_model_metadata("shapes").inputs]
    assert listed == ["prompt", "negative_prompt", "seed", "width", "height", "image", "mask"]
    with pytest.raises(InferenceServerException, match="mask: belongs to the input image"):
        router.client.infer("shapes", [*inputs[:-2], inputs[-1]])
    with pytest.raises(InferenceServerException, match="strength: 2 is not between"):
        router.client.infer("shapes", inputs, parameters={"strength": 2})


def test_only_variants_that_edit_are_asked(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter, scene: Image.Image
) -> None:
    some = start(
        redis_server, shared_triton, start_router, direct=0, escalation=0, edits=("shapes-heavy",), name="shapes"
    )
    (item,) = edit(some, png(scene), quality="low").json()["data"]
    assert (item["variant"], item["route"]) == ("shapes-heavy", "direct")


def test_a_cascade_that_does_not_edit_names_those_that_do(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter, scene: Image.Image
) -> None:
    endpoints = {each: [shared_triton.endpoint] for each in VARIANTS}
    plans = [make_plan(endpoints, name="plain"), make_plan(endpoints, name="editing", edits=VARIANTS)]
    router = start_router(redis_server, *plans)
    field, why = problem(edit(router, png(scene), model="plain"))
    assert field == "image"
    assert why.endswith("use a cascade with one that does: editing")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def test_files_that_cannot_be_used_are_named(router: RouterProcess, scene: Image.Image) -> None:
    whole = png(scene)
    animated = png(scene, save_all=True, append_images=[scene.rotate(90)])
    opaque, small = png(Image.new("RGBA", (32, 32), "black")), half((16, 16))
    cases = {
        "image: is empty": {"image": b""},
        "image: is not an image": {"image": b"GIF89a not an image"},
        "image: is damaged or cut off": {"image": whole[: len(whole) // 2]},
        "image: is animated": {"image": animated},
        f"at most {PIXEL_LIMIT} in all": {"image": bomb(8000, 5000)},
        "image: has too many pixels": {"image": bomb(60000, 60000)},
        f"at most {FILE_LIMIT} are": {"image": bytes(FILE_LIMIT + 1)},
        "mask: has 16x16 pixels, and the image has 32x32": {"image": whole, "mask": small},
        "mask: has no alpha channel": {"image": whole, "mask": whole},
        "mask: is nowhere transparent": {"image": whole, "mask": opaque},
        "strength: 1.5 is not between": {"image": whole, "strength": 1.5},
        "strength: must be a number": {"image": whole, "strength": "much"},
        "n: must be a whole number": {"image": whole, "n": "two"},
        "size: '64x64' is not offered": {"image": whole, "size": "64x64"},
        "background: the models make opaque": {"image": whole, "background": "transparent"},
        "frames: 'frames' is not a known field; the fields are model": {"image": whole, "frames": 2},
    }
    for message, case in cases.items():
        field, why = problem(edit(router, **case))
        assert message in why
        assert why.startswith(f"{field}: ")
    assert router.ask().image.shape == (32, 32, 3)


def test_forms_that_cannot_be_read_are_named(router: RouterProcess, scene: Image.Image) -> None:
    url, whole = f"{router.http_url}/v1/images/edits", png(scene)
    one: File = ("a.png", whole, "image/png")

    def sent(files: Any, **data: str) -> tuple[str, str]:
        return problem(httpx.post(url, data={"prompt": AFTER, **data}, files=files, timeout=60))

    assert pictures(httpx.post(url, data={"prompt": AFTER}, files=[("image[]", one)], timeout=60))
    assert sent([("image[]", one), ("image[]", one)]) == (
        "image",
        "image: is given more than once; an edit takes one image",
    )
    assert sent([("mask", one)])[1].startswith("image: is missing")
    assert sent([("image", one), ("style", one)])[0] == "style"
    assert sent([("other", one)], image="a.png")[0] in ("image", "other")
    form = {"content-type": "multipart/form-data"}
    assert problem(httpx.post(url, content=b"x", headers=form))[0] == "body"
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert problem(httpx.post(url, content=b"--c\r\nnot a part", headers=broken))[0] in ("body", "image")
    assert httpx.post(url, json={"prompt": AFTER}).status_code == 415
    large = httpx.post(url, content=bytes(FORM_LIMIT + 1), headers=broken)
    assert large.status_code in (400, 413)
    ignored = edit(router, whole, input_fidelity="high", style="vivid")
    assert ignored.headers["cascade-ignored"] == "style, input_fidelity"
    assert json.loads(router.get("/openapi.json").text)["paths"]["/v1/images/edits"]

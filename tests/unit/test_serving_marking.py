"""Marks verify with the library's own reader, break with the pixels, and leave the pixels and previews alone."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

from cascade_models import VERSION
from cascade_models.serving.encoding import FORMATS, Form, encode
from cascade_models.serving.marking import ALGORITHM, CERTIFICATES, KEY, Marker
from cascade_router.marks import unmarked
from support.signing import SigningFiles, make_signing_files

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SigningFiles:
    return make_signing_files(tmp_path_factory.mktemp("signing"))


@pytest.fixture(scope="module")
def marker(files: SigningFiles) -> Marker:
    return marker_of({**files.environment, VERSION: "1.2.3"})


def marker_of(environment: dict[str, str]) -> Marker:
    marker = Marker.of_environment(environment, model="hf://some/model", revision="abc")
    assert marker is not None
    return marker


def reader(file: bytes, form: str, **options: Any) -> c2pa.Reader:
    return c2pa.Reader(f"image/{form}", io.BytesIO(file), **options)


def pixels(file: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("form", FORMATS)
def test_a_manifest_verifies_and_says_that_the_model_made_the_image(
    form: str, marker: Marker, files: SigningFiles
) -> None:
    file = encode(PIXELS, Form(form))
    marked = marker.mark(file, form)
    assert np.array_equal(pixels(marked), pixels(file))
    trusted = c2pa.Settings.from_dict({"trust": {"trust_anchors": files.authority.read_text()}})
    assert reader(marked, form, context=c2pa.Context(trusted)).get_validation_state() == "Trusted"
    manifest = reader(marked, form).get_active_manifest()
    (said,) = manifest["assertions"]
    (action,) = said["data"]["actions"]
    assert (action["action"], action["digitalSourceType"].rpartition("/")[2]) == (
        "c2pa.created",
        "trainedAlgorithmicMedia",
    )
    assert action["softwareAgent"] == {"name": "hf://some/model", "version": "abc"}
    assert [(each["name"], each["version"]) for each in manifest["claim_generator_info"]] == [
        ("Diffusion Cascade", "1.2.3")
    ]
    assert len(marked) - len(file) < 10_000


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_pixel_breaks_the_mark(form: str, marker: Marker) -> None:
    marked = marker.mark(encode(PIXELS, Form(form)), form)
    other = encode(255 - PIXELS, Form(form))
    plain = unmarked(memoryview(marked), form)
    assert plain == encode(PIXELS, Form(form))
    at = marked.index(plain[-200:-40])
    changed = marked[:at] + other[-200:-40] + marked[at + 160 :]
    assert json.loads(reader(changed, form).json())["validation_state"] == "Invalid"


def test_threads_may_mark_at_the_same_time(marker: Marker) -> None:
    file = encode(PIXELS, Form())
    with ThreadPoolExecutor(4) as pool:
        marked = list(pool.map(lambda _: marker.mark(file, "png"), range(16)))
    assert {reader(each, "png").get_validation_state() for each in marked} == {"Valid"}


def test_nothing_is_marked_unless_the_environment_asks_for_it() -> None:
    assert Marker.of_environment({VERSION: "1.2.3"}, model="m", revision="") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({KEY: ""}, f"{KEY}: is missing beside {CERTIFICATES}; set both, or neither"),
        ({CERTIFICATES: ""}, f"{CERTIFICATES}: is missing beside {KEY}"),
        ({KEY: "/nowhere/key.pem"}, f"{KEY}: /nowhere/key.pem cannot be read"),
        ({ALGORITHM: "rsa"}, f"{ALGORITHM}: 'rsa' is none of es256"),
        ({ALGORITHM: "ps256"}, "images cannot be signed with these"),
        ({KEY: "other"}, "images cannot be signed with these"),
        ({KEY: "no key"}, "images cannot be signed with these"),
    ],
)
def test_what_cannot_sign_is_refused_with_the_reason(
    changes: dict[str, str], said: str, files: SigningFiles, tmp_path: Path
) -> None:
    secret = files.key.read_text()
    if changes.get(KEY) == "other":
        changes = {KEY: str(make_signing_files(tmp_path).key)}
    elif changes.get(KEY) == "no key":
        broken = tmp_path / "broken.pem"
        broken.write_text(secret.replace("PRIVATE", "PUBLIC"))
        changes = {KEY: str(broken)}
    with pytest.raises(ValueError) as refused:
        marker_of({**files.environment, **changes})
    assert said in str(refused.value)
    assert secret.splitlines()[1] not in str(refused.value)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_without_a_mark_stays_as_it_is(form: str) -> None:
    file = encode(PIXELS, Form(form))
    assert unmarked(memoryview(file), form) == file
    for broken in (b"", file[:13], file[: len(file) // 2]):
        assert unmarked(memoryview(broken), form)[:8] == broken[:8]

"""Answers of a real Triton carry a C2PA manifest, previews do not, and a key that cannot sign is named at the load."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

from support.redis import RedisServer
from support.router import HARD, StartRouter, make_plan
from support.signing import make_signing_files
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract


def verdict(file: bytes) -> str | None:
    """What the library's reader says about a PNG; None if there is no manifest."""
    try:
        return str(c2pa.Reader("image/png", io.BytesIO(file)).get_validation_state())
    except c2pa.C2paError:
        return None


def test_final_images_are_marked_and_previews_are_not(
    redis_server: RedisServer,
    shared_triton: TritonServer,
    start_router: StartRouter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = make_signing_files(tmp_path)
    for name, value in files.environment.items():
        monkeypatch.setenv(name, value)
    server = TritonServer(shared_triton.models, tmp_path, load=("shapes-light", "shapes-heavy"), replica_id="marks")
    try:
        endpoint = server.start().endpoint
        replicas = {variant: [endpoint] for variant in ("shapes-light", "shapes-heavy")}
        router = start_router(redis_server, make_plan(replicas, direct=0, escalation=1, overload="strict"))
        fields: dict[str, Any] = {"prompt": HARD, "seed": 1}
        light = file_of(router.post({**fields, "quality": "low"}).json()["data"][0])
        heavy = file_of(router.post(fields).json()["data"][0])
        assert (verdict(light), verdict(heavy)) == ("Valid", "Valid")
        assert HARD.encode() not in heavy
        told = router.post({**fields, "stream": True, "partial_images": 1}).text.splitlines()
        partial, completed = (json.loads(line.removeprefix("data: ")) for line in told if line.startswith("data: "))
        shown, made = file_of(partial), file_of(completed)
        assert (verdict(shown), verdict(made)) == (None, "Valid")
        assert np.array_equal(pixels(shown), pixels(light))
        assert files.key.read_text().splitlines()[1] not in server.log.read_text() + router.log.read_text()
    finally:
        server.stop()


def test_a_key_that_cannot_sign_is_named_when_a_model_loads(
    shared_triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_C2PA_CERTIFICATE_FILE", str(make_signing_files(tmp_path).certificates))
    server = TritonServer(shared_triton.models, tmp_path, load=("shapes-light",), replica_id="no-marks")
    said = "CASCADE_C2PA_KEY_FILE: is missing beside CASCADE_C2PA_CERTIFICATE_FILE; set both, or neither"
    try:
        with server.log.open("ab") as log:
            server.process = subprocess.Popen(server.command(), stdout=log, stderr=log)
        wait_for(lambda: said in server.log.read_text(), what="the reason")
    finally:
        server.stop()


def file_of(item: dict[str, Any]) -> bytes:
    return base64.b64decode(item["b64_json"])


def pixels(file: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(file)))

"""Public models as a user meets them, by commands alone: from the hub by way of a profile to pictures, then offline."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from cascade_api.documents import load_cascades
from cascade_api.local import read_addresses
from support.hub import COMMIT, serving
from support.local_run import ANY_PORTS, CASCADE, PATIENT, LocalRun
from support.resources import cascade_document
from support.tiny_model import ENVIRONMENT, LOADING_S, run_there
from support.waiting import wait_for

LIGHT, HEAVY = "tiny-light", "tiny-heavy"
STEPS = {LIGHT: 1, HEAVY: 8}
SMALLEST = ("--prompts", "40", "--seconds", "0.1", "--batches", "1", "--starts", "1")

pytestmark = [pytest.mark.contract, pytest.mark.slow]


def manifest_of(judge: Path) -> str:
    """A cascade of two models of the hub, each with an adapter; their profile is yet to be measured."""
    document = cascade_document()
    variants = [
        {
            "name": name,
            "model": {"source": f"hf://tests/{name}", "revision": COMMIT},
            "settings": {"steps": steps},
            "engine": "diffusers",
            "adapters": [{"name": "ink", "source": "hf://tests/ink", "revision": COMMIT}],
        }
        for name, steps in STEPS.items()
    ]
    document["metadata"] = {"name": "tiny"}
    document["spec"] = {
        "objective": {"latency": PATIENT, "attainmentPercent": 99},
        "profileRef": {"name": "tiny"},
        "sizes": ["32x32"],
        "variants": variants,
        "discriminator": {"source": f"file://{judge}"},
        "workers": [{"name": "slots", "class": "cpu", "max": 2}],
    }
    return yaml.safe_dump(document)


def cascade(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([CASCADE, *arguments], capture_output=True, text=True, timeout=LOADING_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def up(run: LocalRun) -> None:
    done = run.cascade("up", "--detach", "-f", str(run.manifest), *ANY_PORTS, timeout_s=LOADING_S)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_drawn(run: LocalRun, file: Path) -> None:
    """A picture through what runs, and how it was made."""
    options = ("--json", "--deadline", PATIENT, "--state-dir", str(run.state.path))
    made: dict[str, Any] = json.loads(cascade("generate", "a lighthouse at dusk", "-o", file, *options).stdout)
    assert made["variant"] in STEPS
    assert made["route"] in ("light", "direct", "escalated", "degraded")
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (32, 32))
        assert np.asarray(picture).std() > 1


def assert_adapted(run: LocalRun) -> None:
    """With the adapter there is another image; an unknown adapter is refused."""
    addresses = read_addresses(run.state.path)
    assert addresses is not None
    asked = {"prompt": "a lighthouse at dusk", "seed": 7, "deadline_ms": 600_000}

    def draw(**more: object) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{addresses.http}/v1/images/generations",
            data=json.dumps({**asked, **more}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=LOADING_S) as response:  # noqa: S310
            (image,) = json.load(response)["data"]
        return dict(image)

    plain, adapted = draw(quality="low"), draw(lora="ink", quality="low")
    assert (plain["lora"], adapted["lora"]) == (None, "ink")
    assert adapted["b64_json"] != plain["b64_json"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        draw(lora="oil")
    problem = json.load(refused.value)["error"]
    assert (refused.value.code, problem["param"]) == (400, "lora")
    assert problem["message"] == "lora: 'oil' is not an adapter of any variant; use ink"


def assert_measured(file: Path) -> None:
    found = load_cascades(file.read_text(), source=str(file))
    profile = found.profile_of(found.cascades[0]).spec
    assert profile.source.kind == "measured"
    assert {row.variant: row.batch for row in profile.execution} == dict.fromkeys(STEPS, 1)
    assert all(0 < row.p50_micros <= row.p95_micros for row in profile.execution)
    assert {row.variant for row in profile.startup} == set(STEPS)
    assert {row.chain for row in profile.quality} == {(LIGHT, HEAVY)}


def test_from_the_hub_to_pictures_and_again_without_a_network(
    tiny: Path, local_run: LocalRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = local_run.manifest
    file.write_text(manifest_of(tiny / "judge"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CASCADE_TRITON_ENV", str(ENVIRONMENT))
    run_there("adapters_served.py", tmp_path / "adapters", "--write", tiny / "model", "ink")
    repositories = {f"tests/{name}": tiny / "model" for name in STEPS} | {"tests/ink": tmp_path / "adapters" / "ink"}
    with serving(repositories) as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        fetched = cascade("model-repo", "fetch", "--cpu", "-f", file)
        assert all(f"hf://tests/{name}: {tmp_path / 'cache'}" in fetched.stdout for name in STEPS)
        assert len([name for name, _ in hub.served if name.endswith(".safetensors")]) == 2 * 3 + 1

        hub.asked = 0
        cascade("model-repo", "fetch", "--cpu", "-f", file)
        cascade("profile", "-f", file, "-o", file, *SMALLEST)
        assert_measured(file)

        up(local_run)
        assert_drawn(local_run, tmp_path / "out.png")
        load = local_run.cascade("load", "--rate", "1", "--duration", "3s", "--deadline", PATIENT, "--json")
        account = json.loads(load.stdout)
        assert account["sent"] == account["answered"] > 0, load.stdout
        wait_for(local_run.whole, what="all pools are there", every_s=0.1)
        assert_adapted(local_run)
        (seen,) = local_run.status()["cascades"]
        assert seen["cascade"] == "default/tiny"
        assert local_run.down().returncode == 0
        local_run.check_gone()
        assert hub.asked == 0, "what was fetched once is not asked for again"

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    up(local_run)
    assert_drawn(local_run, tmp_path / "offline.png")
    wait_for(local_run.whole, what="all pools are there", every_s=0.1)
    assert_adapted(local_run)
    assert local_run.down().returncode == 0

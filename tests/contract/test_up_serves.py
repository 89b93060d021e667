"""`cascade up`: from a manifest to images; nothing that goes wrong beside it disturbs the run."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml

from cascade_api.local import read_addresses
from support.local_run import ANY_PORTS, CASCADE, HUNG_S, PROMPT, LocalRun
from support.processes import children, listening_ports
from support.triton import shapes_manifest
from support.waiting import wait_for

pytestmark = pytest.mark.contract
PNG = b"\x89PNG\r\n\x1a\n"


def steady(run: LocalRun) -> dict[str, int | None]:
    """The processes that nobody starts anew while all is well; servers that seem to hang are replaced."""
    return {"supervisor": run.supervisor, "redis": run.pid("redis"), "router": run.pid("router")}


def test_a_prompt_becomes_a_picture_over_grpc(serving: LocalRun, tmp_path: Path) -> None:
    made = serving.generate(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)
    assert made["route"] in ("light", "direct", "escalated", "degraded")
    assert made["variant"] in ("shapes-light", "shapes-heavy")


def test_a_prompt_becomes_a_picture_over_http(serving: LocalRun) -> None:
    addresses = read_addresses(serving.state.path)
    assert addresses is not None
    request = urllib.request.Request(
        f"http://{addresses.http}/v1/images/generations",
        data=json.dumps({"model": "shapes", "prompt": PROMPT, "deadline_ms": 60_000}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=HUNG_S) as response:  # noqa: S310
        answer = json.load(response)
    assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(PNG)


def test_servers_of_slots_are_reached_by_their_user_alone(serving: LocalRun) -> None:
    servers = {pid for name, pid in serving.state.read_pids().items() if name.startswith("cpu-")}
    assert servers
    servers |= {child.pid for pid in servers for child in children(pid, recursive=True)}
    assert set().union(*map(listening_ports, servers)) == set(), "nothing on the network, loopback included"
    assert serving.state.sockets.stat().st_mode & 0o077 == 0
    assert any(file.is_socket() for file in serving.state.sockets.rglob("*"))


def test_status_shows_pools_plan_shares_and_conditions(serving: LocalRun) -> None:
    def shown() -> dict[str, Any] | None:
        seen = serving.status()
        there = {"redis", "router", "cpu-0"} <= set(seen["children"])
        return seen if there and any(pool["ready"] for pool in seen["cascades"][0].get("pools", ())) else None

    seen = wait_for(shown, what="all of it to be shown")
    assert seen["pid"] == serving.supervisor
    [cascade] = seen["cascades"]
    assert cascade["cascade"] == "default/shapes"
    assert cascade["plan"]["reason"]
    both = ["shapes-heavy", "shapes-light"]
    assert {worker["id"]: worker["hosts"] for worker in cascade["workers"]} == {"cpu-0": both, "cpu-1": both}
    assert abs(sum(cascade["shares"]["planned"].values()) - 1) < 1e-6
    assert {c["type"] for c in cascade["status"]["conditions"]} >= {"Ready", "Accepted", "Progressing"}

    def told() -> bool:
        text = serving.cascade("status").stdout
        hosts = "worker cpu-0: ready, hosts shapes-heavy and shapes-light" in text
        return hosts and "default/shapes" in text and "shares planned / realised" in text

    wait_for(told, what="the same to be told in words")
    why = serving.cascade("explain", "shapes").stdout
    for part in ("default/shapes: Ready=True", "  bound by  ", "  expects   ", "  decided   "):
        assert part in why
    [explained] = json.loads(serving.cascade("explain", "--json").stdout)
    assert explained["plan"]["cascade"] == "default/shapes"
    assert "there is: shapes" in serving.cascade("explain", "nosuch").stderr


def test_top_shows_the_same_as_the_router_tells(serving: LocalRun) -> None:
    told = json.loads(serving.cascade("top", "shapes", "--once", "--json").stdout)
    [cascade] = told["cascades"]
    assert cascade["decision"]["why"]
    assert {worker["id"] for worker in cascade["workers"]} == {"cpu-0", "cpu-1"}
    shown = serving.cascade("top", "--once").stdout
    assert "default/shapes" in shown
    assert "decisions, the newest first" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--json",), "--json needs --once"),
        (("--once", "--http", "localhost:8000"), "--http: 'localhost:8000' is no URL"),
        (("--once", "--http", "http://127.0.0.1:1"), "--http: no router answers at http://127.0.0.1:1"),
        (("--once", "--key", "k.pem"), "--certificate and --key: give both or neither"),
        (("--once", "--ca", "/nowhere.pem"), "--ca: cannot read /nowhere.pem"),
    ],
)
def test_what_top_cannot_do_is_said_with_the_option(local_run: LocalRun, arguments: tuple[str, ...], said: str) -> None:
    done = local_run.cascade("top", *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_run_in_the_same_place_is_refused_with_the_first_ones_process(serving: LocalRun) -> None:
    before = steady(serving)
    done = serving.cascade("up", "-f", str(serving.manifest), *ANY_PORTS)
    assert done.returncode == 1
    assert f"already running (process {before['supervisor']}" in done.stderr
    assert steady(serving) == before
    serving.generate()


def test_the_password_of_redis_is_nobody_elses(serving: LocalRun) -> None:
    """Who reaches the port needs it, and it stands where its owner alone reads, in no command line and no log."""
    addresses = read_addresses(serving.state.path)
    assert addresses is not None
    password = redis.connection.parse_url(addresses.redis)["password"]
    assert len(password) > 20
    host, port = addresses.redis.rpartition("@")[2].partition("/")[0].split(":")
    with redis.Redis(host=host, port=int(port)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("cascades")
    shown = [
        serving.cascade("status", "--json").stdout,
        serving.cascade("status").stdout,
        serving.cascade("doctor").stdout,
    ]
    run = psutil.Process(serving.supervisor)
    shown += [" ".join(process.cmdline()) for process in (run, *children(run.pid, recursive=True))]
    assert not [text for text in shown if password in text]
    for file in (path for path in serving.state.path.rglob("*") if path.is_file()):
        if password.encode() in file.read_bytes():
            assert (file.name, file.stat().st_mode & 0o777) in (("addresses.json", 0o600), ("redis.conf", 0o600))


def unmeasured_chain(spec: dict) -> None:  # type: ignore[type-arg]
    del spec["variants"][1]


def unknown_field(spec: dict) -> None:  # type: ignore[type-arg]
    spec["objectiv"] = {}


def crossed_bounds(spec: dict) -> None:  # type: ignore[type-arg]
    spec["workers"][0] |= {"min": 3, "max": 1}


def unprofiled(spec: dict) -> None:  # type: ignore[type-arg]
    spec["variants"].append({**spec["variants"][0], "name": "unheard-of"})


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (unmeasured_chain, "spec.profileRef"),
        (unknown_field, "spec.objectiv"),
        (crossed_bounds, "spec.workers.0.min"),
        (unprofiled, "spec.variants.2.name"),
    ],
)
def test_a_bad_manifest_is_refused_by_line_and_field_and_disturbs_nothing(
    serving: LocalRun,
    tmp_path: Path,
    spoil,
    field: str,  # type: ignore[no-untyped-def]
) -> None:
    documents = list(yaml.safe_load_all(shapes_manifest()))
    spoil(next(d for d in documents if d["kind"] == "DiffusionCascade")["spec"])
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump_all(documents))
    before = steady(serving)
    done = serving.cascade("up", "-f", str(bad))
    assert done.returncode == 2
    assert f"{bad}:" in done.stderr
    assert field in done.stderr
    assert "Traceback" not in done.stderr
    assert steady(serving) == before
    wait_for(serving.whole, what="all pools are there", every_s=0.2)


def test_missing_weights_are_named_with_the_field(local_run: LocalRun) -> None:
    documents = list(yaml.safe_load_all(shapes_manifest()))
    spec = next(d for d in documents if d["kind"] == "DiffusionCascade")["spec"]
    spec["variants"][0]["model"]["revision"] = "0" * 64
    local_run.manifest.write_text(yaml.safe_dump_all(documents))
    done = local_run.up()
    assert done.returncode == 2
    assert "model.revision" in done.stderr
    local_run.check_gone()


def test_a_model_that_cannot_be_loaded_is_named_with_the_fix(local_run: LocalRun) -> None:
    documents = list(yaml.safe_load_all(shapes_manifest()))
    spec = next(d for d in documents if d["kind"] == "DiffusionCascade")["spec"]
    spec["discriminator"] = {"source": "file:///judge"}
    for variant in spec["variants"]:
        del variant["model"]["weights"]
        variant["model"] |= {"source": "hf://tests/tiny", "revision": "0" * 40}
    local_run.manifest.write_text(yaml.safe_dump_all(documents))
    done = local_run.up()
    assert done.returncode == 1
    # The environment of the built-in models has no diffusers.
    assert "cannot be loaded: diffusers is not installed here, which hf://tests/tiny needs: name an" in done.stderr
    assert "Traceback" not in done.stderr
    local_run.check_gone()


def test_a_manifest_that_is_not_there_is_named(local_run: LocalRun) -> None:
    done = local_run.cascade("up", "-f", "/nowhere/cascade.yaml")
    assert done.returncode == 2
    assert "--file: cannot read /nowhere/cascade.yaml" in done.stderr


def test_a_port_in_use_is_named_with_the_flag_and_leaves_nothing(local_run: LocalRun) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        done = local_run.up("--http", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"--http: port {port} of 127.0.0.1 is in use" in done.stderr
    local_run.check_gone()


def test_a_redis_that_is_not_there_is_named_with_the_flag(local_run: LocalRun) -> None:
    # From the manifest that an earlier run kept.
    local_run.state.prepare()
    kept = local_run.manifest.rename(local_run.state.manifest)
    before = kept.read_text()
    done = local_run.up("--redis-url", "redis://:secret@127.0.0.1:1/0", file=kept)
    assert done.returncode == 1
    assert "--redis-url: no Redis answers at redis://127.0.0.1:1/0" in done.stderr
    assert kept.read_text() == before
    local_run.check_gone()


def test_a_missing_triton_environment_is_named_with_the_fix(
    local_run: LocalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_TRITON_ENV", "/nowhere")
    done = local_run.up()
    assert done.returncode == 1
    assert "no Triton environment at /nowhere: run `cascade-triton setup`" in done.stderr
    local_run.check_gone()
    doctor = local_run.cascade("doctor")
    assert doctor.returncode == 1
    assert "PROBLEM  triton: no Triton environment at /nowhere" in doctor.stdout


def test_doctor_finds_nothing_wrong_with_what_runs(serving: LocalRun) -> None:
    def well() -> bool:
        done = serving.cascade("doctor")
        return done.returncode == 0 and "PROBLEM" not in done.stdout

    wait_for(well, what="nothing to be found wrong")


def test_what_would_be_decided_can_be_asked_without_a_run(serving: LocalRun) -> None:
    command = [str(CASCADE), "plan", "-f", str(serving.manifest), "--demand", "40", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [answer] = json.loads(done.stdout)
    assert answer["cascade"] == "default/shapes"
    assert answer["plan"]["expected"]["demand"] == pytest.approx(40, rel=0.2)

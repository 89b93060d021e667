"""However it ends, a local run leaves no process, no port and no shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cascade_api.local import read_addresses
from cascade_api.names import CASCADE_INDEX, CascadeRef
from support.local_run import ANY_PORTS, CASCADE, HUNG_S, LocalRun
from support.ports import listens
from support.processes import runs
from support.redis import RedisServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract


def foreground(run: LocalRun) -> list[str]:
    """The command line of `cascade up` that is ended by Ctrl-C."""
    return [str(CASCADE), "up", "-f", str(run.manifest), *ANY_PORTS, "--state-dir", str(run.state.path)]


def test_down_leaves_nothing(local_run: LocalRun) -> None:
    assert local_run.up().returncode == 0
    addresses = read_addresses(local_run.state.path)
    assert addresses is not None
    done = local_run.down()
    assert done.returncode == 0, done.stderr
    local_run.check_gone()
    ports = [int(each.rpartition(":")[2]) for each in (addresses.grpc, addresses.http, addresses.redis.split("/")[2])]
    wait_for(lambda: not any(map(listens, ports)), what=f"the ports {ports} to be free")
    again = local_run.down()
    assert again.returncode == 0
    assert "nothing runs" in again.stdout


def test_ctrl_c_leaves_nothing(local_run: LocalRun) -> None:
    with subprocess.Popen(foreground(local_run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_for(lambda: read_addresses(local_run.state.path) or run.poll() is not None, what="ready", within_s=HUNG_S)
        local_run.remember()
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=HUNG_S)
    assert run.returncode == 0, errors
    assert "Ready after" in output
    local_run.check_gone()


@pytest.fixture
def _never_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation of Triton whose server says nothing for ever: what waits for it never gets further."""
    environment, server = tmp_path / "environment", tmp_path / "server"
    backend = server / "backends" / "python"
    parts = ("libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub")
    for part in (environment / "bin" / "python", *(backend / name for name in parts)):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    (server / "caches" / "local").mkdir(parents=True)
    program = server / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 86400\n")
    program.chmod(0o755)
    monkeypatch.setenv("CASCADE_TRITON_ENV", str(environment))
    monkeypatch.setenv("CASCADE_TRITON_SERVER", str(server))


@pytest.mark.usefixtures("_never_ready")
def test_ctrl_c_while_it_starts_leaves_nothing(local_run: LocalRun) -> None:
    with subprocess.Popen(foreground(local_run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_for(lambda: local_run.pid("cpu-0") or run.poll() is not None, what="a server", within_s=HUNG_S)
        local_run.remember()
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=HUNG_S)
    assert run.returncode == 130, errors
    assert "Traceback" not in errors
    local_run.check_gone()


def test_after_the_supervisor_is_killed_its_children_die_and_down_tidies_up(local_run: LocalRun) -> None:
    assert local_run.up().returncode == 0
    pids = local_run.state.read_pids()
    supervisor = local_run.supervisor
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not any(map(runs, pids.values())), what="the children die")
    wait_for(lambda: local_run.supervisor is None, what="the state directory to be given up")
    doctor = local_run.cascade("doctor")
    assert doctor.returncode == 1
    assert f"process {supervisor} ended without cleaning up" in doctor.stdout
    done = local_run.down()
    assert done.returncode == 0
    local_run.check_gone()


def test_somebody_elses_redis_is_used_and_left_running_without_our_plan(
    local_run: LocalRun, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.set("theirs", "untouched")
        assert local_run.up("--redis-url", redis_server.url).returncode == 0
        assert "redis" not in local_run.state.read_pids()
        assert client.smembers(CASCADE_INDEX) == {"default/shapes"}
        assert local_run.down().returncode == 0
        local_run.check_gone()
        assert client.get("theirs") == "untouched"
        assert client.smembers(CASCADE_INDEX) == set()
        assert client.get(CascadeRef("default", "shapes").plan_key) is None


def test_status_of_nothing_says_how_to_start(local_run: LocalRun) -> None:
    done = local_run.cascade("status")
    assert done.returncode == 1
    assert "start it with `cascade up`" in done.stderr

"""However it ends, a local run leaves no process, no port and no shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest

from cascade_api.local import read_addresses
from cascade_api.names import CASCADE_INDEX, CascadeRef
from cascade_operator.local.ports import check_free, parse_address
from support.local_run import ANY_PORTS, CASCADE, LocalRun
from support.redis import RedisServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract
STOP_WITHIN_S = 5.0


def check_ports_are_free(addresses: tuple[str, ...]) -> None:
    for address in addresses:
        check_free(parse_address(address, flag="test"), flag="test")


def test_down_leaves_nothing(local_run: LocalRun) -> None:
    assert local_run.up().returncode == 0
    addresses = read_addresses(local_run.state.path)
    assert addresses is not None
    began = time.monotonic()
    done = local_run.down()
    took_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert local_run.leftovers() == []
    check_ports_are_free((addresses.grpc, addresses.http, addresses.redis.split("/")[2]))
    assert took_s < STOP_WITHIN_S + 3, "the command itself takes a second or two to start"
    again = local_run.down()
    assert again.returncode == 0
    assert "nothing runs" in again.stdout


def test_ctrl_c_leaves_nothing(local_run: LocalRun) -> None:
    command = [str(CASCADE), "up", "-f", str(local_run.manifest), *ANY_PORTS, "--state-dir", str(local_run.state.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_for(lambda: read_addresses(local_run.state.path), what="ready")
        local_run.remember()
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=20)
    assert time.monotonic() - began < STOP_WITHIN_S
    assert run.returncode == 0, errors
    assert "Ready after" in output
    assert local_run.leftovers() == []


def test_ctrl_c_while_it_starts_leaves_nothing(local_run: LocalRun) -> None:
    command = [str(CASCADE), "up", "-f", str(local_run.manifest), *ANY_PORTS, "--state-dir", str(local_run.state.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_for(lambda: local_run.pid("router"), what="the router starts")
        local_run.remember()
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=20)
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert local_run.leftovers() == []


def test_after_the_supervisor_is_killed_its_children_die_and_down_tidies_up(local_run: LocalRun) -> None:
    assert local_run.up().returncode == 0
    pids = local_run.state.read_pids()
    supervisor = local_run.supervisor
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not any(_runs(pid) for pid in pids.values()), within_s=3, what="the children die")
    doctor = local_run.cascade("doctor")
    assert doctor.returncode == 1
    assert f"process {supervisor} ended without tidying up" in doctor.stdout
    done = local_run.down()
    assert done.returncode == 0
    assert local_run.leftovers() == []


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_somebody_elses_redis_is_used_and_left_running_without_our_plan(
    local_run: LocalRun, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.set("theirs", "untouched")
        assert local_run.up("--redis-url", redis_server.url).returncode == 0
        assert "redis" not in local_run.state.read_pids()
        assert client.smembers(CASCADE_INDEX) == {"default/shapes"}
        assert local_run.down().returncode == 0
        assert local_run.leftovers() == []
        assert client.get("theirs") == "untouched"
        assert client.smembers(CASCADE_INDEX) == set()
        assert client.get(CascadeRef("default", "shapes").plan_key) is None


def test_status_of_nothing_says_how_to_start(local_run: LocalRun) -> None:
    done = local_run.cascade("status")
    assert done.returncode == 1
    assert "start it with `cascade up -f FILE`" in done.stderr

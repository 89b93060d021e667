"""What is killed under load comes back within 10 seconds, and every request is accounted for."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from support.local_run import LocalRun
from support.waiting import wait_for

pytestmark = pytest.mark.contract
BACK_WITHIN_S = 10.0


def under_way(load: subprocess.Popen[str]) -> None:
    """Wait until requests flow: for the first line of progress."""
    assert load.stderr is not None
    line = load.stderr.readline()
    assert "sent" in line, line


def kill_and_await_recovery(run: LocalRun, victim: str) -> float:
    """Seconds from the death of a process until everything is whole again."""
    before = run.kill(victim)
    killed = time.monotonic()

    def back() -> bool:
        pid = run.pid(victim)
        return pid is not None and pid != before and run.whole()

    wait_for(back, within_s=BACK_WITHIN_S, what=f"{victim} and all else is back")
    return time.monotonic() - killed


def books(load: subprocess.Popen[str]) -> dict[str, Any]:
    """The result of a load, once it is checked to add up."""
    output, errors = load.communicate(timeout=90)
    result: dict[str, Any] = json.loads(output)
    refused = sum(result["refused"].values())
    assert result["sent"] == result["answered"] + refused + result["lost"], errors
    assert result["silent"] == result["answeredTwice"] == 0, result
    assert result["balanced"]
    assert result["answered"] > 0
    return result


def test_servers_stubs_and_redis_come_back_without_a_lost_connection(serving: LocalRun) -> None:
    wait_for(serving.whole, what="all pools are there")
    with serving.start_load("--rate", "6", "--duration", "22", "--deadline", "4s") as load:
        under_way(load)
        took_s = {victim: kill_and_await_recovery(serving, victim) for victim in ("cpu-0", "stub", "redis")}
        result = books(load)
    assert result["lost"] == 0, result["details"]
    assert max(took_s.values()) < BACK_WITHIN_S
    serving.generate()


def test_the_router_comes_back_and_a_second_try_with_the_same_id_gets_an_end(serving: LocalRun) -> None:
    wait_for(serving.whole, what="all pools are there")
    with serving.start_load("--rate", "20", "--duration", "10", "--deadline", "4s", "--retry-lost") as load:
        under_way(load)
        kill_and_await_recovery(serving, "router")
        result = books(load)
    assert result["retried"] > 0
    assert result["lost"] * 10 <= result["retried"], result["details"]
    serving.generate()

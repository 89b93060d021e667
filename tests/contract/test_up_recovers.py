"""What is killed under load comes back within 10 seconds, and every request is accounted for."""

from __future__ import annotations

import json
import time

import pytest

from support.local_run import LocalRun
from support.waiting import wait_for

pytestmark = pytest.mark.contract
BACK_WITHIN_S = 10.0


@pytest.mark.parametrize("victim", ["cpu-0", "stub", "redis", "router"])
def test_a_killed_process_comes_back_and_no_request_is_silent(serving: LocalRun, victim: str) -> None:
    load = serving.start_load("--rate", "6", "--duration", "12", "--deadline", "4s", "--retry-lost")
    try:
        assert load.stderr is not None
        load.stderr.readline()  # the first progress line: it is under way
        before = serving.kill(victim)
        killed = time.monotonic()

        def replaced() -> bool:
            pid = serving.pid(victim)
            return pid is not None and pid != before

        wait_for(replaced, within_s=BACK_WITHIN_S, what=f"a new {victim}")
        wait_for(lambda: all_ready(serving), within_s=killed + BACK_WITHIN_S - time.monotonic(), what="all ready")
        output, errors = load.communicate(timeout=60)
    finally:
        load.kill()
    result = json.loads(output)
    refused = sum(result["refused"].values())
    assert result["sent"] == result["answered"] + refused + result["lost"], errors
    assert result["balanced"], result
    assert result["silent"] == result["answeredTwice"] == 0
    if victim != "router":
        assert result["lost"] == result["retried"] == 0, result["details"]
    assert result["answered"] > 0
    serving.generate()


def all_ready(run: LocalRun) -> bool:
    """Whether router and Redis answer and every pool has its replicas."""
    done = run.cascade("status", "--json")
    if done.returncode:
        return False
    [cascade] = json.loads(done.stdout)["cascades"]
    pools = cascade.get("pools") or []
    return bool(pools and cascade["routers"]) and all(pool["ready"] >= pool["desired"] for pool in pools)

"""What is killed under load comes back, and every request is accounted for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support.local_run import HUNG_S, LocalRun
from support.waiting import wait_for

pytestmark = pytest.mark.contract
LONG = ("--duration", "10m", "--deadline", "30s")
"""A load that goes on until it is told to end; what is under way then has time to end."""


@contextlib.contextmanager
def load_on(run: LocalRun, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A load under way while the block runs; ended whatever happens."""
    with run.start_load(*LONG, *options) as load:
        try:
            await_progress(load, "answered")
            yield load
        finally:
            load.kill()


def await_progress(load: subprocess.Popen[str], what: str) -> None:
    """Read lines of progress until a figure of theirs is above zero."""
    assert load.stderr is not None
    figure = re.compile(rf"{what} [1-9]")
    assert any(figure.search(line) for line in load.stderr), f"the load ended before there was {what}"


def kill_and_await_recovery(run: LocalRun, victim: str) -> None:
    """Kill a process and wait until everything is whole again."""
    before = run.kill(victim)

    def back() -> bool:
        pid = run.pid(victim)
        return pid is not None and pid != before and run.whole()

    wait_for(back, what=f"{victim} and all else is back", every_s=0.1)


def books(load: subprocess.Popen[str]) -> dict[str, Any]:
    """The result of a load that is told to end, once it is checked to add up."""
    load.send_signal(signal.SIGINT)
    output, errors = load.communicate(timeout=HUNG_S)
    result: dict[str, Any] = json.loads(output)
    refused = sum(result["refused"].values())
    assert result["sent"] == result["answered"] + refused + result["lost"], errors
    assert result["silent"] == result["answeredTwice"] == 0, result
    assert result["balanced"]
    assert result["answered"] > 0
    return result


def test_servers_stubs_and_redis_come_back_without_a_lost_connection(serving: LocalRun) -> None:
    wait_for(serving.whole, what="all pools are there", every_s=0.1)
    with load_on(serving, "--rate", "6") as load:
        for victim in ("cpu-0", "stub", "redis"):
            kill_and_await_recovery(serving, victim)
        result = books(load)
    assert result["lost"] == 0, result["details"]
    serving.generate()


def test_the_router_comes_back_and_a_second_try_with_the_same_id_gets_an_end(serving: LocalRun) -> None:
    wait_for(serving.whole, what="all pools are there", every_s=0.1)
    with load_on(serving, "--rate", "20", "--retry-lost") as load:
        router = serving.pid("router")
        assert router is not None
        # Held, it surely has requests in hand when it is killed.
        os.kill(router, signal.SIGSTOP)
        await_progress(load, "in flight")
        kill_and_await_recovery(serving, "router")
        result = books(load)
    told = serving.state.log_file("supervisor")
    wait_for(lambda: "router is back after" in told.read_text(), what="its return to be told")
    assert result["retried"] > 0
    assert result["lost"] * 10 <= result["retried"], result["details"]
    serving.generate()

"""Processes that are killed under load are restarted, and every request is accounted for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from cascade_api.local import read_addresses
from cascade_api.names import CascadeRef
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


def test_agents_servers_stubs_and_redis_come_back_without_a_lost_connection(serving: LocalRun) -> None:
    wait_for(serving.whole, what="all pools are there", every_s=0.1)
    with load_on(serving, "--rate", "6") as load:
        for victim in ("cpu-0", "triton", "stub", "redis"):
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


def test_a_plan_that_somebody_wrote_does_not_stay(serving: LocalRun) -> None:
    """Whatever it says, and however new it claims to be; nor does it stay away when it was deleted."""
    wait_for(serving.whole, what="all pools are there", every_s=0.1)
    addresses = read_addresses(serving.state.path)
    assert addresses is not None
    ref = CascadeRef("default", "shapes")

    def draining(plan: dict[str, Any]) -> dict[str, Any]:
        for worker in plan["workers"]:
            worker["state"] = "draining"
        return plan

    forged: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
        lambda plan: plan | {"workers": []},
        lambda plan: plan | {"workers": [], "generation": plan["generation"] + 3_600_000},
        lambda plan: draining(plan) | {"generation": plan["generation"] + 3_600_000},
        lambda plan: plan | {"generation": 2**63},
        lambda plan: plan | {"rows": [plan["rows"][0] | {"share": 1, "chain": ["nobody", "shapes-heavy"]}]},
    ]
    with redis.from_url(addresses.redis) as client:

        def followed(before: int) -> bool:
            seen = serving.look()["cascades"][0]
            plan, routers = seen["plan"], seen["routers"]
            ready = plan is not None and [worker["state"] for worker in plan["workers"]] == ["ready", "ready"]
            newer = ready and before < plan["generation"] < 2**53
            return newer and [router["planGeneration"] for router in routers] == [plan["generation"]]

        for forge in forged:
            text = client.get(ref.plan_key)
            assert text is not None
            plan = json.loads(text)
            client.set(ref.plan_key, json.dumps(forge(plan)))
            client.publish(ref.plan_channel, "1")
            wait_for(lambda before=plan["generation"]: followed(before), what="the own plan to be followed again")
            serving.generate()
        client.delete(ref.plan_key)
        wait_for(lambda: followed(0), what="the deleted plan to be there again")
        serving.generate()

"""A cascade without requests is parked and wakes up for the next one, in local mode as in the simulator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from support.local_run import HUNG_S, LocalRun
from support.simulation import play_zero, zero_manifest
from support.waiting import wait_for

BOTH_PARKED_S = 30.0
pytestmark = [pytest.mark.contract, pytest.mark.slow]


def plan_of(run: LocalRun) -> dict[str, Any]:
    """The plan in force; nothing while it cannot be seen."""
    cascades = run.look().get("cascades") or [{}]
    return cascades[0].get("plan") or {}


def workers_of(run: LocalRun) -> list[str]:
    """The replicas that are there, those that end included."""
    pools = (run.look().get("cascades") or [{}])[0].get("pools") or []
    return [replica for pool in pools for replica in pool["replicas"]]


def test_scale_to_zero_and_back_goes_as_simulated(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, manifest=zero_manifest())
    reasons: list[str] = []
    asked_s: list[float] = []
    took_s: list[float] = []

    def saw(reason: str) -> bool:
        """Whether a plan with this reason is in force; what was seen is noted."""
        now = str(plan_of(run).get("reason", ""))
        if now and reasons[-1:] != [now]:
            reasons.append(now)
        return now == reason

    def ask() -> None:
        asked_s.append(time.monotonic())
        run.generate()  # fails where it is refused
        took_s.append(time.monotonic() - asked_s[-1])

    try:
        done = run.up()
        assert done.returncode == 0, done.stdout + done.stderr
        saw("InitialPlan")
        for _ in range(3):
            ask()
        wait_for(lambda: saw("Parked") and not workers_of(run), what="the cascade to be parked", within_s=HUNG_S)
        # By then both are: ten seconds after the last request, two decisions five seconds apart, and draining.
        wait_for(lambda: time.monotonic() - asked_s[-1] > BOTH_PARKED_S, what="the simulated one to be parked too")
        conditions = {each["type"]: each["reason"] for each in run.look()["cascades"][0]["status"]["conditions"]}
        assert conditions["RouterAvailable"] == "AsPlanned", "routers report of what is parked, too"
        for _ in range(3):
            ask()
        wait_for(lambda: saw("DemandRose"), what="the plan of the cascade that woke", within_s=HUNG_S)
    finally:
        run.end()

    simulated = play_zero(tmp_path, [at - asked_s[0] for at in asked_s])
    assert not simulated.outcomes.lost.any(), "nothing was refused in local mode"
    said = [change.says.rpartition("(")[2].rstrip(")") for change in simulated.changes]
    assert list(dict.fromkeys(said)) == list(dict.fromkeys(reasons))
    # The same request waits for the start, and for about as long: processes of a busy machine start more slowly.
    assert int(simulated.outcomes.latency_s.argmax()) == took_s.index(max(took_s)) == 3

"""Plan and pools follow the load, in place and without a failed request."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import yaml

from support.local_run import HUNG_S, PATIENT, LocalRun, running
from support.patience import patient_documents, patient_manifest
from support.processes import children
from support.waiting import wait_for

pytestmark = [pytest.mark.contract, pytest.mark.slow]
LIGHT_MS, HEAVY_MS, OBJECTIVE = 240, 880, "8s"
"""Both variants are said to be slower than they are, so that a busy test machine still keeps up with every plan.

The plans are one slot of each variant at a request in two seconds, and two light ones at 4.5 per second."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """A run of a cascade whose plans change at a few requests per second."""
    manifest = patient_manifest(light_ms=LIGHT_MS, heavy_ms=HEAVY_MS, objective={"latency": OBJECTIVE})
    with running(tmp_path_factory.mktemp("patient"), manifest=manifest) as run:
        yield run


Pools = dict[str, int]
"""Ready replicas by variant."""


def seen(run: LocalRun) -> tuple[Pools, dict[str, Any]]:
    """The pools and the plan in force; nothing while they cannot be seen."""
    cascades = run.look().get("cascades") or [{}]
    pools = {pool["variant"]: pool["ready"] for pool in cascades[0].get("pools", ()) if pool["ready"]}
    return pools, cascades[0].get("plan") or {}


def loaded(run: LocalRun, *, rate: float, until: Callable[[Pools], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of a load that goes on until the pools are as they should be, and the plan then."""
    with run.start_load("--rate", str(rate), "--duration", "20m", "--deadline", PATIENT) as load:
        try:
            assert load.stderr is not None
            assert any(re.search(r"answered ([2-9]|1.)", line) for line in load.stderr), "the load ended early"
            what = f"the pools to follow {rate} requests a second"
            wait_for(lambda: until(seen(run)[0]), what=what, within_s=HUNG_S, every_s=0.2)
            plan = seen(run)[1]
            load.send_signal(signal.SIGINT)
            output, errors = load.communicate(timeout=HUNG_S)
        finally:
            load.kill()
    result: dict[str, Any] = json.loads(output)
    assert result["answered"] == result["sent"], (result, errors)
    assert result["balanced"]
    assert result["shares"]["planned"]
    assert sum(result["shares"]["realised"].values()) == pytest.approx(1)
    return result, plan


def test_plan_and_pools_follow_the_load_without_a_failed_request(patient: LocalRun) -> None:
    before = patient.state.read_pids()
    both = {"shapes-heavy": 1, "shapes-light": 1}
    _, calm_plan = loaded(patient, rate=0.5, until=lambda pools: pools == both)
    _, busy_plan = loaded(patient, rate=4.5, until=lambda pools: pools == {"shapes-light": 2})
    assert busy_plan["rows"] != calm_plan["rows"]
    loaded(patient, rate=0.5, until=lambda pools: "shapes-heavy" in pools)
    assert patient.state.read_pids() == before, "models were changed in the servers that were there"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """The same cascade on two workers that both host both weights."""
    documents = patient_documents(light_ms=LIGHT_MS, heavy_ms=HEAVY_MS, objective={"latency": OBJECTIVE})
    for document in documents:
        for pool in document["spec"].get("workers", ()):
            pool |= {"hosting": "shared", "min": pool["max"]}
    with running(tmp_path_factory.mktemp("shared"), manifest=yaml.safe_dump_all(documents)) as run:
        yield run


def processes(run: LocalRun) -> set[psutil.Process]:
    """Everything that the slots run: agents, servers and the processes of models."""
    agents = [pid for name, pid in run.state.read_pids().items() if name.startswith("cpu-")]
    return {process for pid in agents for process in children(pid, recursive=True)}


def test_workers_that_host_all_follow_the_load_without_a_load_or_a_start(shared: LocalRun) -> None:
    before = processes(shared)
    assert len(before) >= 2 * 3, "two servers with two models each"
    both = {"shapes-heavy": 2, "shapes-light": 2}
    _, calm_plan = loaded(shared, rate=0.5, until=lambda pools: pools == both)
    _, busy_plan = loaded(
        shared, rate=4.5, until=lambda _: seen(shared)[1].get("rows") not in (None, calm_plan["rows"])
    )
    assert busy_plan["rows"] != calm_plan["rows"]
    assert processes(shared) == before
    assert seen(shared)[0] == both

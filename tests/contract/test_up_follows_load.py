"""Plan and pools follow the load, in place and without a failed request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from support.local_run import LocalRun
from support.patience import patient_manifest

pytestmark = [pytest.mark.contract, pytest.mark.slow]
LIGHT_MS, HEAVY_MS = 60, 220
"""Both variants are said to be slower than they are, so that a busy test machine still keeps up with every plan.

The plans are one slot of each variant at 2 requests per second, and two light ones at 18."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """A run of a cascade whose plans change at a few requests per second."""
    run = LocalRun(tmp_path_factory.mktemp("patient"), manifest=patient_manifest(light_ms=LIGHT_MS, heavy_ms=HEAVY_MS))
    try:
        done = run.up()
        assert done.returncode == 0, done.stdout + done.stderr
        yield run
    finally:
        run.end()


def loaded(run: LocalRun, *, rate: float, seconds: int) -> tuple[dict[str, Any], list[dict[str, int]], dict[str, Any]]:
    """The result of a load, the pools seen meanwhile (replicas by variant), and the last plan under it."""
    pools: list[dict[str, int]] = []
    plan: dict[str, Any] = {}
    with run.start_load("--rate", str(rate), "--duration", f"{seconds}s", "--deadline", "10s") as load:
        assert load.stderr is not None
        for _ in load.stderr:
            [cascade] = run.look()["cascades"]
            plan = cascade["plan"]
            pools.append(dict(Counter({pool["variant"]: pool["ready"] for pool in cascade["pools"] if pool["ready"]})))
        assert load.stdout is not None
        return json.loads(load.stdout.read()), pools, plan


def test_plan_and_pools_follow_the_load_without_a_failed_request(patient: LocalRun) -> None:
    before = patient.state.read_pids()
    low, calm_pools, calm_plan = loaded(patient, rate=2, seconds=8)
    high, busy_pools, busy_plan = loaded(patient, rate=18, seconds=20)
    after, last_pools, _ = loaded(patient, rate=2, seconds=30)
    for result in (low, high, after):
        assert result["answered"] == result["sent"], result
        assert result["balanced"]
        assert result["shares"]["planned"]
        assert sum(result["shares"]["realised"].values()) == pytest.approx(1)
    assert busy_plan["rows"] != calm_plan["rows"]
    assert calm_pools[-1] == {"shapes-heavy": 1, "shapes-light": 1}
    assert busy_pools[-1] == {"shapes-light": 2}, "a slot changed from heavy to light"
    assert "shapes-heavy" in last_pools[-1], "and back"
    assert patient.state.read_pids() == before, "models were changed in the servers that were there"

"""`cascade drift` on a running cascade."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from support.local_run import LocalRun
from support.triton import shapes_manifest
from support.waiting import wait_for

pytestmark = pytest.mark.contract


def slower(text: str, factor: float) -> str:
    """The manifest with a profile of a machine that is ``factor`` times slower."""
    documents = list(yaml.safe_load_all(text))
    profile = next(document for document in documents if document["kind"] == "CascadeProfile")
    for row in profile["spec"]["execution"]:
        row["p50Micros"], row["p95Micros"] = round(factor * row["p50Micros"]), round(factor * row["p95Micros"])
    return yaml.safe_dump_all(documents)


def test_a_profile_of_another_machine_shows(local_run: LocalRun, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    # Far beyond what a machine that stalls makes of a model's time; so is the tolerance below.
    file.write_text(slower(shapes_manifest(), 10_000))
    started = local_run.up()
    assert started.returncode == 0, started.stderr
    wait_for(local_run.whole, what="all pools are there", every_s=0.1)
    found = local_run.cascade("drift", "-f", str(file), "--json")
    assert found.returncode == 1, found.stderr
    findings = json.loads(found.stdout)["findings"]
    assert findings
    assert all(finding["drifted"] for finding in findings)
    assert findings[0]["subject"].startswith("shapes-")
    wait_for(local_run.whole, what="all pools are there", every_s=0.1)
    held = local_run.cascade("drift", "-f", str(local_run.manifest), "--tolerance", "100000")
    assert held.returncode == 0, held.stdout
    assert "the profile holds" in held.stdout


def test_nothing_running_is_said(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    found = run.cascade("drift", "-f", str(run.manifest))
    assert found.returncode == 2
    assert "no local run: start one with `cascade up`" in found.stderr

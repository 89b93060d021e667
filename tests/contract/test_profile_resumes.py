"""`cascade profile`, the command: killed in the middle it goes on where it was, and what it writes is whole."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from cascade_api.documents import load_cascades
from cascade_profiler.measure.records import records_file
from support.local_run import CASCADE
from support.triton import shapes_manifest

pytestmark = [pytest.mark.contract, pytest.mark.slow]

Rows = list[tuple[str, str, bytes]]


def command(file: Path, *options: str) -> list[str]:
    return [str(CASCADE), "profile", "-f", str(file), "-o", str(file), *options]


def parts(file: Path) -> Rows:
    with sqlite3.connect(records_file(file)) as database:
        return database.execute("SELECT kind, key, value FROM parts ORDER BY rowid").fetchall()


def test_a_killed_profile_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    file, page = tmp_path / "cascade.yaml", tmp_path / "report.html"
    file.write_text(shapes_manifest())
    before = file.read_text()
    options = ("--prompts", "40", "--seconds", "0.1", "--batches", "1,2", "--starts", "1")
    left = {**os.environ, "TMPDIR": str(tmp_path)}  # for what a killed command leaves behind
    with subprocess.Popen(command(file, *options), stdout=subprocess.PIPE, text=True, env=left) as first:
        assert first.stdout is not None
        # The light variant's images are all there, the heavy one's are being made.
        for line in first.stdout:
            if "shapes-heavy, start" in line:
                break
        first.kill()
    assert file.read_text() == before
    held = parts(file)
    assert held

    second = subprocess.run(
        command(file, *options, "--report", str(page)), capture_output=True, text=True, timeout=300, check=False
    )
    assert second.returncode == 0, second.stderr
    assert f"holds {len(held)} measurements" in second.stdout
    now = parts(file)
    assert now[: len(held)] == held
    assert {kind for kind, *_ in now[len(held) :]} == {"drawn"}
    assert len({key for kind, key, _ in now if kind == "drawn"}) == 2 * 40 / 4

    found = load_cascades(file.read_text(), source="measured")
    spec = found.profile_of(found.cascades[0]).spec
    assert spec.source.kind == "measured"
    assert [row.batch for row in spec.execution] == [1, 2, 1, 2]
    assert all(row.p50_micros <= row.p95_micros <= (row.p99_micros or 0) for row in spec.execution)
    assert all(row.memory_mi_b > 0 for row in spec.execution)
    assert len(spec.discriminator) == 2
    assert len(spec.quality) == 121
    assert {metric.name for metric in spec.metrics} == {"q2", "strict", "adherence", "fd-layout"}
    assert "shapes-light to shapes-heavy: cost ratio 1:" in second.stdout
    assert page.read_text().count("data:image/png") == 2 * 8

    third = subprocess.run(command(file, *options), capture_output=True, text=True, timeout=300, check=False)
    assert third.returncode == 0, third.stderr
    assert parts(file) == now

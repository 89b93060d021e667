"""If `cascade profile` is killed, the next run continues where it was, and what it writes is complete."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from cascade_api.documents import load_cascades
from cascade_profiler.measure.records import records_file
from support.local_run import CASCADE, HUNG_S
from support.triton import shapes_manifest
from support.waiting import wait_for

pytestmark = [pytest.mark.contract, pytest.mark.slow]

OPTIONS = ("--prompts", "40", "--seconds", "0.1", "--batches", "1,2", "--starts", "1")
ALL_DRAWN = 2 * 40 // 4
"""Requests for the images of both variants."""
Rows = list[tuple[str, str, bytes]]


def command(file: Path, *options: str) -> list[str]:
    return [str(CASCADE), "profile", "-f", str(file), "-o", str(file), *options]


def parts(file: Path) -> Rows:
    with sqlite3.connect(records_file(file)) as database:
        return database.execute("SELECT kind, key, value FROM parts ORDER BY rowid").fetchall()


def drawn(rows: Rows) -> int:
    """Requests for images on record."""
    return len({key for kind, key, _ in rows if kind == "drawn"})


def killed_while_drawing(folder: Path) -> Path | None:
    """The manifest of a profile that was killed once all but images was measured; None where it was too quick."""
    folder.mkdir()
    file = folder / "cascade.yaml"
    file.write_text(shapes_manifest())
    left = {**os.environ, "TMPDIR": str(folder)}  # for what a killed command leaves behind
    with subprocess.Popen(command(file, *OPTIONS), stdout=subprocess.PIPE, text=True, env=left) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "shapes-heavy, start" in line:
                break
        first.kill()
    return file if drawn(parts(file)) < ALL_DRAWN else None


def test_a_killed_profile_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    tries = itertools.count()
    file = wait_for(lambda: killed_while_drawing(tmp_path / f"{next(tries)}"), what="a profile to be killed in time")
    page = tmp_path / "report.html"
    assert file.read_text() == shapes_manifest()
    held = parts(file)
    assert held

    second = subprocess.run(
        command(file, *OPTIONS, "--report", str(page)), capture_output=True, text=True, timeout=HUNG_S, check=False
    )
    assert second.returncode == 0, second.stderr
    assert f"has {len(held)} measurements" in second.stdout
    now = parts(file)
    assert now[: len(held)] == held
    assert {kind for kind, *_ in now[len(held) :]} == {"drawn"}
    assert drawn(now) == ALL_DRAWN

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

    third = subprocess.run(command(file, *OPTIONS), capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert third.returncode == 0, third.stderr
    assert parts(file) == now

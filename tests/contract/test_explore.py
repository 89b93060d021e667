"""`cascade explore` against a real Triton: killed, resumed, repeated; and what it writes is planned and served."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
from pathlib import Path

import pytest

from cascade_api.documents import load_cascades
from cascade_profiler.measure.records import records_file
from support.local_run import CASCADE, HUNG_S, LocalRun
from support.triton import shapes_manifest
from support.waiting import wait_for

pytestmark = pytest.mark.contract

OPTIONS = (
    "--prompts", "160", "--seconds", "0.1", "--batches", "1", "--most", "3",
    "--steps", "shapes-light=1,2", "--steps", "shapes-heavy=4,6,24", "--guidance", "shapes-heavy=none,own",
    "--precision", "shapes-heavy=own,int8",
)  # fmt: skip


def command(file: Path, output: Path, *options: str) -> list[str]:
    return [str(CASCADE), "explore", "-f", str(file), "-o", str(output), *OPTIONS, *options]


def run(file: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(file, output, *options), capture_output=True, text=True, timeout=HUNG_S, check=False)


def parts(output: Path) -> list[tuple[str, str, bytes]]:
    """What is on record, in the order in which it was measured."""
    with sqlite3.connect(records_file(output)) as database:
        return database.execute("SELECT kind, key, value FROM parts ORDER BY rowid").fetchall()


def killed_in_the_second_round(folder: Path) -> Path | None:
    """The manifest of a search that was killed; None if it was too quick."""
    folder.mkdir()
    file = folder / "cascade.yaml"
    file.write_text(shapes_manifest())
    with subprocess.Popen(command(file, folder / "out.yaml"), stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        rounds = 0
        for line in first.stdout:
            rounds += "prompts:" in line
            if rounds == 2:
                break
        first.kill()
    return file if first.returncode != 0 else None


def test_a_killed_search_goes_on_and_what_it_writes_is_served(tmp_path: Path) -> None:
    tries = itertools.count()
    file = wait_for(lambda: killed_in_the_second_round(tmp_path / f"{next(tries)}"), what="a search that was killed")
    output = file.with_name("out.yaml")
    held = parts(output)
    assert held
    assert not output.exists()

    second = run(file, output)
    assert second.returncode == 0, second.stdout + second.stderr
    now = parts(output)
    assert now[: len(held)] == held
    drawn = [key for kind, key, _ in now if kind == "drawn"]
    assert len(drawn) == len(set(drawn)), "an image was drawn twice"
    assert "14 settings of 3 weights are tried" in second.stdout
    assert "on prompts that chose nothing" in second.stdout

    found = load_cascades(output.read_text(), source="explored")
    (cascade,) = found.cascades
    profile = found.profile_of(cascade).spec
    kept = [variant.name for variant in cascade.spec.variants]
    assert 1 <= len(kept) <= 3
    assert profile.source.prompts == 80
    assert {row.variant for row in profile.execution} == set(kept)
    assert {row.light for row in profile.quality if row.alone} == set(kept)
    assert all(set(row.values_milli) == {"q2"} for row in profile.quality if not row.alone)

    third = run(file, output)
    assert third.returncode == 0, third.stderr
    assert parts(output) == now
    again = load_cascades(output.read_text(), source="again")
    assert again.cascades == found.cascades
    assert again.profiles[0].spec.quality == profile.quality

    served = LocalRun(tmp_path, manifest=output.read_text())
    try:
        up = served.up()
        assert up.returncode == 0, up.stdout + up.stderr
        assert served.generate()["variant"] in kept
    finally:
        served.end()


def test_a_budget_is_kept_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(shapes_manifest())
    few = run(file, tmp_path / "few.yaml", "--images", "20")
    assert few.returncode == 2
    assert "--images: 20 are too few:" in few.stderr

    done = run(file, tmp_path / "out.yaml", "--images", "500")
    assert done.returncode == 0, done.stdout + done.stderr
    requests = [key for kind, key, _ in parts(tmp_path / "out.yaml") if kind == "drawn"]
    assert 4 * len(requests) <= 500

"""Recorded measurements: what is kept under which key, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_api.command import CommandFailed
from cascade_profiler.measure.records import Records, records_file

KEY = {"model": {"name": "light", "steps": 2}, "batch": 1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return records_file(tmp_path / "profile.yaml")


def test_what_was_added_is_there_when_the_file_is_opened_again(file: Path) -> None:
    with Records(file) as records:
        records.add("taken", KEY, [0.1, 0.2])
        records.add("taken", KEY, [0.3])
        records.add_arrays("drawn", KEY, {"confidence": np.array([0.5, 1.0])})
    assert file.name == "profile.yaml.measured"
    with Records(file) as records:
        assert records.values("taken", KEY) == [[0.1, 0.2], [0.3]]
        assert records.has("drawn", dict(reversed(KEY.items())))
        np.testing.assert_array_equal(records.arrays("drawn", KEY)[0]["confidence"], [0.5, 1.0])
        assert records.count() == 3


def test_a_measurement_of_something_else_is_not_taken_for_it(file: Path) -> None:
    with Records(file) as records:
        records.add("taken", KEY, [0.1])
        assert records.values("taken", {**KEY, "batch": 2}) == []
        assert records.values("spent", KEY) == []
        assert not records.has("taken", {**KEY, "model": {"name": "light", "steps": 3}})


def test_fresh_forgets(file: Path) -> None:
    with Records(file) as records:
        records.add("taken", KEY, [0.1])
    with Records(file, fresh=True) as records:
        assert records.count() == 0


def test_two_runs_on_one_file_are_refused(file: Path) -> None:
    with Records(file), pytest.raises(CommandFailed, match="another `cascade` command writes"):
        Records(file)


def test_a_file_that_holds_something_else_is_refused_and_left_alone(file: Path) -> None:
    file.write_text("measurements, but of another kind " * 100)
    with pytest.raises(CommandFailed, match="is not a file of measurements"):
        Records(file)
    assert file.read_text().startswith("measurements")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot write"):
        Records(tmp_path / "nowhere" / "profile.yaml.measured")

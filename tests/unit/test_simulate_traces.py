"""Traces: formats, generators, and errors that name file, row and field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_profiler.frontier.inputs import BadInput
from cascade_profiler.simulate.traces import load_trace
from support.simulation import needs_reference


def written(folder: Path, text: str, name: str = "arrivals.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_plain_seconds_with_and_without_header_and_prompts(tmp_path: Path) -> None:
    with_prompts = load_trace(written(tmp_path, "seconds,prompt\n0.5,7\n1.25,3\n"))
    assert with_prompts.times_s.tolist() == [0.5, 1.25]
    assert with_prompts.prompts.tolist() == [7, 3]
    alone = load_trace(written(tmp_path, "0.5\n1.25\n1.25\n"))
    assert alone.times_s.tolist() == [0.5, 1.25, 1.25]
    assert alone.span_s == 1.25


def test_the_reference_format_is_milliseconds_in_any_order(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, "2000.0,5\n500.0,9\n", name="trace_mine.csv"))
    assert trace.times_s.tolist() == [0.5, 2.0]
    assert trace.prompts.tolist() == [9, 5]
    assert load_trace(written(tmp_path, "ms,prompt\n2000,5\n500,9\n")).times_s.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("seconds,prompt\n", "no arrivals"),
        ("seconds\n1\nnan\n", ":3: seconds: nan is not a time"),
        ("seconds\n-1\n", ":2: seconds: -1 is not a time"),
        ("seconds\n1\n1e300\n", ":3: seconds: 1e300 is more than 10000000 s from zero"),
        ("ms\n1763632810000\n", ":2: ms: 1763632810000 is more than 10000000 s from zero"),
        ("seconds\n1\nx\n", ":3: seconds: 'x' is not a number"),
        ("seconds\n2\n1\n", ":3: seconds: 1 comes after 2: arrivals must rise"),
        ("seconds,prompt\n1,2.5\n", ":2: prompt: '2.5' is not a prompt number"),
        ("1,2,3\n", ":1: has 3 columns"),
    ],
)
def test_bad_files_are_named_by_row_and_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_trace(written(tmp_path, text))
    assert says in str(caught.value)
    assert "arrivals.csv" in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("poisson:speed=3", "speed: is unknown; poisson has rate, seconds"),
        ("poisson:rate=1e-300,seconds=1e300", "seconds: 1e+300 is more than 10000000"),
        ("poisson:rate=nan", "rate: nan must be finite"),
        ("bursts:every=0", "every: must be above zero"),
        ("flash:rate=-1", "rate: -1 must be finite and not below zero"),
        ("on-off:on=0,off=0", "on and off cannot both be zero"),
        ("poisson:rate=0", "draws no arrivals"),
    ],
)
def test_bad_generators_are_named_by_parameter(name: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_trace(name)
    assert says in str(caught.value)


def test_a_generated_trace_follows_its_rate_and_its_seed() -> None:
    flash = load_trace("flash:rate=16,factor=4,at=100,length=6,seconds=200", seed=1)
    crowd = np.count_nonzero((flash.times_s >= 100) & (flash.times_s < 106))
    calm = np.count_nonzero(flash.times_s < 100)
    assert 300 < crowd < 470
    assert 1450 < calm < 1750
    again = load_trace("flash:rate=16,factor=4,at=100,length=6,seconds=200", seed=1)
    other = load_trace("flash:rate=16,factor=4,at=100,length=6,seconds=200", seed=2)
    assert flash.times_s.tolist() == again.times_s.tolist()
    assert flash.times_s.tolist() != other.times_s.tolist()
    silent = load_trace("on-off:rate=50,on=5,off=5,seconds=40").times_s % 10
    assert (silent < 5).all()


def test_an_unset_folder_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASCADE_REFERENCE_DATA", raising=False)
    with pytest.raises(BadInput, match="CASCADE_REFERENCE_DATA: is not set"):
        load_trace("hadis_1to64")


@needs_reference
def test_a_reference_trace_by_its_name() -> None:
    trace = load_trace("hadis_1to64")
    assert len(trace.times_s) == 12_270
    assert trace.span_s == pytest.approx(346.7, abs=0.1)
    assert (np.diff(trace.times_s) >= 0).all()
    with pytest.raises(BadInput, match="hadis_1to65: is neither a file"):
        load_trace("hadis_1to65")

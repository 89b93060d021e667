"""Profiles: reference tables, files, the hull, and errors that name file, row and field."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cascade_profiler.frontier.hull import hull, points
from cascade_profiler.frontier.inputs import BadInput
from cascade_profiler.frontier.profiles import load_profile
from cascade_profiler.frontier.reference import REFERENCE_PROFILES
from support.simulation import make_profile, needs_reference


@needs_reference
@pytest.mark.parametrize("name", REFERENCE_PROFILES)
def test_every_reference_profile_loads(name: str) -> None:
    loaded = load_profile(name)
    assert loaded.profile.spec.direction == "min"
    assert all(row.variant for row in loaded.profile.spec.execution)


@needs_reference
def test_the_published_grid_charges_its_own_points_and_between_them() -> None:
    charges = load_profile("hadis-49").charges
    at = charges.chain(("sd35-large-turbo", "sd35-medium"), direct=0.2, escalation=0.2)
    assert at == pytest.approx(22.03)
    near = charges.chain(("sd35-large-turbo", "sd35-medium"), direct=0.2, escalation=0.25)
    assert 21.7 < near < 22.03
    assert charges.alone("sdxl-lightning") == pytest.approx(29.75)
    assert charges.alone("sd35-large") == pytest.approx(19.95)


@needs_reference
def test_the_hull_of_the_published_grid_has_its_eighteen_corners() -> None:
    best = hull(points(load_profile("hadis-726").profile.spec, "nvidia-l40s"))
    assert len(best) == 18
    assert [p.gpu_seconds for p in best] == sorted(p.gpu_seconds for p in best)
    assert [p.metric for p in best] == sorted((p.metric for p in best), reverse=True)


SHAPES = Path(__file__).parents[2] / "examples" / "shapes.yaml"
HEADER = "light_model,heavy_model,router_ratio,disc_ratio,threshold,latency,fid\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "0,1,0.0,nan,0.0,0.5,29\n", ":2: disc_ratio: 'nan' is not a finite number"),
        (HEADER + "0,1,0.0,0.0,0.0,0.5,-2\n", ":2: fid: -2 must be at least 0"),
        (HEADER + "0,9,0.0,0.0,0.0,0.5,29\n", ":2: heavy_model: 9 is an unknown variant"),
        (HEADER + "0,1,0.5,0.5,0.1,0.5,29\n", ":2: threshold: 0.1 is not r + (1 - r)·d"),
        (HEADER + "0,1,0.5\n", ":2: disc_ratio: is missing"),
        ("light_model,heavy_model\n0,1\n", ":1: router_ratio: the header lacks this column"),
        ("", "is empty"),
    ],
)
def test_bad_tables_are_named_by_row_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    (tmp_path / "cascade_configs_hybrid_726.csv").write_text(text)
    monkeypatch.setenv("CASCADE_REFERENCE_DATA", str(tmp_path))
    with pytest.raises(BadInput) as caught:
        load_profile("hadis-726")
    assert "cascade_configs_hybrid_726.csv" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch: 2\n    p50Micros: 150000\n    p95Micros: 150000", "batch: 2\n    p50Micros: 150\n    p95Micros: 150",
         "spec.execution.2.p50Micros: 150 µs at batch 2 is less than a smaller batch takes"),
        ("- light\n    - heavy\n    directPercent: 50\n    escalationPercent: 50",
         "- other\n    - heavy\n    directPercent: 50\n    escalationPercent: 50",
         "'other' is not in spec.execution: unknown variant"),
        ("directPercent: 50\n    escalationPercent: 50", "directPercent: 50\n    escalationPercent: 60",
         "interpolation needs a full grid"),
    ],
)  # fmt: skip
def test_profiles_that_contradict_themselves_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = yaml.safe_dump(make_profile(batches={2: 0.15}).profile.wire(), sort_keys=False)
    assert old in text
    path = tmp_path / "profile.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(BadInput) as caught:
        load_profile(str(path))
    assert says in str(caught.value).replace("0.0", "0")


def test_a_file_with_a_cascade_brings_it_along() -> None:
    loaded = load_profile(str(SHAPES))
    assert loaded.cascade is not None
    assert loaded.charges.alone("shapes-heavy") > loaded.charges.alone("shapes-light")


def test_variants_of_the_same_weights_start_alike(tmp_path: Path) -> None:
    cascade, profile = yaml.safe_load_all(SHAPES.read_text())
    light, heavy = cascade["spec"]["variants"]
    light["model"] = heavy["model"]
    rows = profile["spec"]["startup"]
    profile["spec"]["startup"] = [row for row in rows if row["variant"] == heavy["name"]]
    path = tmp_path / "shapes.yaml"
    path.write_text(yaml.safe_dump_all([cascade, profile]))
    starts = load_profile(str(path)).profile.spec.startup
    assert {row.variant for row in starts} == {light["name"], heavy["name"]}
    assert len({(row.cold_seconds, row.load_millis) for row in starts}) == 1

"""A profile is written into a YAML file: its own document is replaced, and the rest stays unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cascade_api import command
from cascade_api.command import CommandFailed
from cascade_api.documents import load_cascades, load_documents
from cascade_api.profile import CascadeProfile
from cascade_profiler.measure.writing import with_profile, write_profile
from support.triton import EXAMPLE, shapes_manifest


def profile(**metadata: str) -> CascadeProfile:
    found = next(d for d in load_documents(EXAMPLE.read_text(), source="example") if isinstance(d, CascadeProfile))
    wire = found.wire()
    wire["metadata"] = {"name": "shapes", **metadata}
    wire["spec"]["source"] = {"kind": "measured", "tool": "a test", "prompts": 7}
    return CascadeProfile.model_validate(wire)


def test_only_the_profile_is_replaced() -> None:
    before = EXAMPLE.read_text()
    after = with_profile(before, profile())
    assert after.split("---\n")[0] == before.split("---\n")[0]
    file = load_cascades(after, source="after")
    assert [p.spec.source.tool for p in file.profiles] == ["a test"]
    assert with_profile(after, profile()) == after


def test_what_is_written_reads_back_as_it_was() -> None:
    assert load_documents(with_profile("", profile()), source="new") == [profile()]


def test_a_profile_of_another_name_or_namespace_is_added() -> None:
    for other in (profile(name="other"), profile(namespace="elsewhere")):
        documents = load_documents(with_profile(EXAMPLE.read_text(), other), source="two")
        assert len([d for d in documents if isinstance(d, CascadeProfile)]) == 2


def test_a_measurement_takes_one_line() -> None:
    text = with_profile("", profile())
    assert len([line for line in text.splitlines() if "directPercent" in line]) == len(profile().spec.quality)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "cascade.yaml"
    write_profile(profile(), file)
    write_profile(profile(), file)
    assert [path.name for path in tmp_path.iterdir()] == ["cascade.yaml"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batches", "2,4"], "--batches: batch 1 must be among them"),
        (["--batches", "one"], "--batches: 'one' is not a list of sizes"),
        (["--batches", "1,²"], "--batches: '1,²' is not a list of sizes"),
        (["-f", "/nowhere.yaml"], "--file: cannot read /nowhere.yaml"),
        (["-o", "/nowhere/profile.yaml"], "--output: no folder /nowhere"),
        (["-o", "/"], "--output: / is a folder: name a file in it"),
        (["--report", "/"], "--report: / is a folder"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(tmp_path: Path, options: list[str], said: str) -> None:
    manifest = tmp_path / "cascade.yaml"
    manifest.write_text(shapes_manifest())
    given = ["profile", "-f", str(manifest), "-o", str(tmp_path / "profile.yaml"), *options]
    ended = CliRunner().invoke(command.build(), given)
    assert isinstance(ended.exception, CommandFailed)
    assert said in str(ended.exception)
    assert ended.exception.code == 2


def test_weights_of_another_revision_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    manifest = tmp_path / "cascade.yaml"
    manifest.write_text(shapes_manifest().replace("revision: ", "revision: 0"))
    ended = CliRunner().invoke(command.build(), ["profile", "-f", str(manifest), "-o", str(tmp_path / "p.yaml")])
    assert "spec.variants.0.model.revision" in str(ended.exception)


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfe", " is not UTF-8 text"), (b"a: [1", ":1: cannot be read as YAML")]
)
def test_an_output_that_holds_something_else_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, said: str
) -> None:
    manifest, output = tmp_path / "cascade.yaml", tmp_path / "notes.txt"
    manifest.write_text(shapes_manifest())
    output.write_bytes(content)
    ended = CliRunner().invoke(command.build(), ["profile", "-f", str(manifest), "-o", str(output)])
    assert isinstance(ended.exception, CommandFailed)
    assert str(ended.exception).startswith(f"--output: {output}{said}")
    assert output.read_bytes() == content

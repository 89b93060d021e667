"""The output of the commands of local mode: it can be pasted into a shell, and contains no password."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from cascade_api.command import CommandFailed
from cascade_api.documents import load_cascades
from cascade_api.local import Addresses, read_addresses, write_addresses
from cascade_api.settings import OperatorSettings, RouterSettings, from_environment
from cascade_operator.local import greeting
from cascade_operator.local.console import print_line
from cascade_operator.local.services import without_password
from cascade_operator.store import Store
from support.triton import shapes_manifest

BIN = Path(sys.executable).parent
ADDRESSES = Addresses(grpc="127.0.0.1:1", http="127.0.0.1:2", redis="redis://127.0.0.1:3/0", pid=4, manifest="m.yaml")


def greeted(*, detached: bool = False) -> str:
    file = load_cascades(shapes_manifest(), source="m.yaml")
    return greeting.text(file, ADDRESSES, took_s=1.0, state_dir=None, detached=detached)


@pytest.mark.parametrize(
    ("path", "folder", "program"),
    [
        (str(BIN), "/", "cascade"),
        ("/nowhere", str(BIN.parent), "bin/cascade"),
        ("/nowhere", str(BIN), "./cascade"),
        ("/nowhere", "/proc/self", str(BIN / "cascade")),
    ],
)
def test_a_greeting_calls_the_program_as_the_shell_finds_it(
    path: str, folder: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(folder)
    said = greeted()
    assert f"\n  {shlex.quote(program)} generate " in said
    assert "http://127.0.0.1:2/ " in said
    # Who started it may be elsewhere.
    assert f"{program if program == 'cascade' else shlex.quote(str(BIN / 'cascade'))} down" in greeted(detached=True)


def test_with_several_cascades_a_greeting_names_one_in_each_command() -> None:
    first, rest = shapes_manifest().split("\n---\n", 1)
    second = first.replace("name: shapes\n", "name: posters\n", 1)
    file = load_cascades("\n---\n".join((first, second, rest)), source="m.yaml")
    said = greeting.text(file, ADDRESSES, took_s=1.0, state_dir=None, detached=False)
    assert said.count(" --cascade shapes") == 2
    assert " --cascade " not in greeted()


def test_nobody_needs_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    print_line("said to nobody")


@pytest.mark.parametrize("url", ["foo", "redis://:secret@host:abc/0", "http://user:secret@host/"])
def test_what_is_no_redis_is_refused_by_option_without_its_password(url: str) -> None:
    with pytest.raises(CommandFailed, match="--redis-url or REDIS_URL: ") as refused:
        without_password(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["foo", "redis://:secret@host:abc/0", "redis://:sec/ret@host/0", "http://a:secret@host/"]
)
@pytest.mark.parametrize("settings", [OperatorSettings, RouterSettings])
def test_a_wrong_redis_is_refused_by_name_without_its_password(
    settings: type[OperatorSettings] | type[RouterSettings], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(CommandFailed, match="setting REDIS_URL: not the URL of a Redis") as refused:
        from_environment(settings)
    assert "sec" not in str(refused.value)
    with pytest.raises(CommandFailed) as refused:
        Store(url)
    assert "sec" not in str(refused.value)
    monkeypatch.setenv("REDIS_URL", "redis://:secret@host/0")
    assert "secret@" not in repr(from_environment(settings))


def test_the_addresses_are_for_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text("{}")
    (tmp_path / "addresses.json").chmod(0o644)
    write_addresses(tmp_path, ADDRESSES)
    assert read_addresses(tmp_path) == ADDRESSES
    assert (tmp_path / "addresses.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["addresses.json"]


def test_a_redis_is_shown_without_its_password() -> None:
    assert without_password("rediss://user:secret@host:6380/1?password=secret") == "rediss://host:6380/1"
    assert without_password("redis://127.0.0.1:6379/0") == "redis://127.0.0.1:6379/0"

"""Where Triton's environment is looked for, and how it is made where there is none; with a package that is at hand."""

from __future__ import annotations

import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from cascade_models import launcher
from cascade_models.agent import setting_up
from cascade_models.agent.installation import LaunchError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data folder, on a machine without a checkout."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("CASCADE_TRITON_ENV", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "pipx" / "venv"))
    return tmp_path


@pytest.fixture
def packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one small package, and the folder where pip finds it; no index is asked."""
    folder = home / "packages"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_thing.py", "here = True\n")
        wheel.writestr("tiny_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_thing-1.0.dist-info/RECORD", "")
    lock = home / "tiny.lock"
    lock.write_text("tiny-thing==1.0   # via nobody\n")
    monkeypatch.setattr(setting_up, "LOCK", lock)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_what_is_named_comes_before_a_checkout_and_that_before_the_users_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = setting_up.default_environment()
    assert own.parent == home / "data" / "diffusion-cascade"
    beside = home / "pipx" / ".venv-triton"
    beside.mkdir(parents=True)
    assert setting_up.default_environment() == beside
    monkeypatch.setenv("CASCADE_TRITON_ENV", "/elsewhere")
    assert setting_up.default_environment() == Path("/elsewhere")


def test_another_lock_has_another_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = setting_up.own_environment()
    (home / "new.lock").write_text("numpy==1\n")
    monkeypatch.setattr(setting_up, "LOCK", home / "new.lock")
    assert setting_up.own_environment() != before


def test_two_at_once_make_it_once_over_what_a_killed_attempt_left_and_tell_what_they_do(
    packages: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = setting_up.own_environment()
    (environment / "lib").mkdir(parents=True)
    (environment / "lib" / "half").touch()
    monkeypatch.setattr(sys, "argv", ["cascade-triton", "setup"])
    both = [threading.Thread(target=launcher.main) for _ in "ab"]
    for each in both:
        each.start()
    for each in both:
        each.join()
    said = capfd.readouterr().out
    assert said.count(f"setting up Triton in {environment}") == 1
    assert "installing 1 packages" in said
    assert said.count("Triton is set up") == 1
    assert not (environment / "lib" / "half").exists()
    python = environment / "bin" / "python"
    assert subprocess.run([python, "-c", "import tiny_thing"], check=False).returncode == 0
    launcher.main()
    assert capfd.readouterr().out == ""


def test_nothing_is_made_where_another_environment_is_named(
    packages: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_TRITON_ENV", "/elsewhere")
    setting_up.main([])
    assert capfd.readouterr().out == ""
    assert not setting_up.own_environment().exists()


def test_a_package_that_cannot_be_had_is_said_and_leaves_it_unmade(packages: Path) -> None:
    for wheel in packages.iterdir():
        wheel.unlink()
    environment = setting_up.own_environment()
    with pytest.raises(LaunchError, match=r"setting up Triton failed:\n(.|\n)*tiny-thing==1.0"):
        setting_up.set_up(environment, say=lambda line: None)
    assert not (environment / setting_up.READY).exists()


def test_a_python_that_triton_has_no_stub_for_is_passed_over(
    packages: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newer = tmp_path / "bin" / "python3"
    newer.parent.mkdir()
    newer.write_text("#!/bin/sh\necho 3.99; echo /usr\n")
    newer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(newer))
    monkeypatch.setenv("PATH", str(newer.parent))
    with pytest.raises(LaunchError, match=r"needs a Python 3\.11 or 3\.12"):
        setting_up.set_up(setting_up.own_environment(), say=lambda line: None)


def test_a_script_in_path_that_starts_a_python_will_do(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pyenv has them; and an environment's Python may be a copy, beside which no library lies."""
    script = packages.parent / "bin" / "python3.11"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    setting_up.set_up(setting_up.own_environment(), say=lambda line: None)
    assert (setting_up.own_environment() / setting_up.READY).exists()

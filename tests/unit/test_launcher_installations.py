"""Where the launcher finds Triton: in the wheel of its environment, or outside it as NVIDIA's image has it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cascade_models.agent.installation import Installation, LaunchError, server_environment, server_folder


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment without Triton."""
    (tmp_path / "env" / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    touch(tmp_path / "env" / "bin" / "python")
    return tmp_path / "env"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's folder of NVIDIA's image."""
    server = tmp_path / "tritonserver"
    backend = server / "backends" / "python"
    for part in ("libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub"):
        touch(backend / part)
    touch(server / "bin" / "tritonserver")
    (server / "caches" / "local").mkdir(parents=True)
    monkeypatch.setenv("CASCADE_TRITON_SERVER", str(server))
    return server


def test_the_image_keeps_triton_outside_the_environment(environment: Path, image: Path) -> None:
    found = Installation.find(environment)
    folder = server_folder(found)
    assert (folder / "bin" / "tritonserver").resolve() == image / "bin" / "tritonserver"
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    assert stub.resolve() == image / "backends" / "python" / "triton_python_backend_stub"
    assert (folder / "backends" / "python" / "cascade_models" / "launcher.py").is_file(), (
        "stubs import the package here"
    )


def test_links_are_where_triton_can_use_their_paths(
    environment: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = image.parent / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    plain = server_folder(Installation.find(environment))
    assert plain.is_relative_to(environment)
    spaced = environment.rename(environment.with_name("white space"))
    folder = server_folder(Installation.find(spaced))
    assert folder.parent == elsewhere / f"cascade-triton-{os.geteuid()}"
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert server_folder(Installation.find(spaced)) == folder


def of_another_user(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.mkdir(0o700)
    if os.geteuid() == 0:
        os.chown(planted, 65534, 65534)
    else:
        # Whoever may not give a folder away becomes another user himself.
        stranger = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: stranger)
        planted.rename(planted.with_name(f"cascade-triton-{stranger}"))


def open_to_others(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.mkdir()
    planted.chmod(0o770)


def a_link(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = planted.with_name("elsewhere")
    elsewhere.mkdir(0o700)
    planted.symlink_to(elsewhere)


@pytest.mark.parametrize("plant", [of_another_user, open_to_others, a_link])
def test_a_folder_that_others_may_have_filled_is_not_used(
    environment: Path, image: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    shared = image.parent / "tmp"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    installation = Installation.find(environment.rename(environment.with_name("white space")))
    folder = server_folder(installation)
    folder.parent.rename(shared / "mine")
    planted = folder.parent
    plant(planted, monkeypatch)
    with pytest.raises(LaunchError, match=r"is not a folder of user .* alone .* remove it, or name another folder"):
        server_folder(installation)
    assert list(shared.glob("cascade-triton-*/*")) == []


def test_a_group_that_files_inherit_does_not_open_the_folder(
    environment: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = image.parent / "tmp"
    shared.mkdir()
    shared.chmod(0o2777)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    installation = Installation.find(environment.rename(environment.with_name("white space")))
    assert server_folder(installation) == server_folder(installation)


def test_the_images_own_libraries_stay_and_the_environment_comes_first(environment: Path, image: Path) -> None:
    inherited = {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64", "PATH": "/usr/bin", "PYTHONPATH": "/elsewhere"}
    values = server_environment(Installation.find(environment), inherited)
    assert values["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert values["PATH"] == f"{environment}/bin:/usr/bin"
    assert "PYTHONPATH" not in values


def test_without_triton_it_says_what_to_do(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_TRITON_SERVER", str(environment / "nothing"))
    with pytest.raises(LaunchError, match="holds no tritonserver: run `cascade-triton setup`"):
        Installation.find(environment)

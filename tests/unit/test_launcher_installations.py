"""Where the launcher finds Triton: in the wheel of its environment, or outside it as NVIDIA's image has it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from cascade_models.launcher import Installation, LaunchError, server_environment, server_folder


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
    assert folder.parent == elsewhere / "cascade-triton"
    assert server_folder(Installation.find(spaced)) == folder


def test_the_images_own_libraries_stay_and_the_environment_comes_first(environment: Path, image: Path) -> None:
    inherited = {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64", "PATH": "/usr/bin", "PYTHONPATH": "/elsewhere"}
    values = server_environment(Installation.find(environment), inherited)
    assert values["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert values["PATH"] == f"{environment}/bin:/usr/bin"
    assert "PYTHONPATH" not in values


def test_without_triton_it_says_what_to_do(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_TRITON_SERVER", str(environment / "nothing"))
    with pytest.raises(LaunchError, match="holds no tritonserver: run `make setup`"):
        Installation.find(environment)

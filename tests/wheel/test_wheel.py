"""What `make dist` builds, as somebody without a checkout uses it: the wheel in an empty environment and home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of the wheel, installed with what this repository pins."""
    environment = tmp_path_factory.mktemp("pipx") / "venv"
    venv.create(environment)
    wheel = DIST / f"diffusion_cascade-{VERSION}-py3-none-any.whl"
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--quiet"]
    pins = ["--constraint", str(ROOT / "requirements" / "dev.lock")]
    subprocess.run([*pip, "install", "--no-compile", *pins, f"{wheel}[local]"], check=True)
    return environment / "bin"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a user who has nothing yet."""
    home = tmp_path_factory.mktemp("home")
    ours = ("CASCADE_", "XDG_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"HOME": str(home)}


@pytest.fixture(scope="module")
def serving(bin_folder: Path, bare: Mapping[str, str]) -> Iterator[str]:
    """`cascade up` with no file; what it says. It sets up Triton, which takes most of the time."""
    command = [bin_folder / "cascade", "up", "--detach", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    done = subprocess.run(command, env=bare, cwd=bare["HOME"], capture_output=True, text=True, check=False)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield done.stdout
    finally:
        subprocess.run([bin_folder / "cascade", "down"], env=bare, check=False)


def test_the_first_run_needs_no_file_and_sets_up_triton_before_everybodys_eyes(
    serving: str, bare: Mapping[str, str]
) -> None:
    data = Path(bare["HOME"]) / ".local" / "share" / "diffusion-cascade"
    assert f"setting up Triton in {data}" in serving
    assert "Triton is set up" in serving
    assert "Models: shapes" in serving


def test_it_makes_a_picture(serving: str, bin_folder: Path, bare: Mapping[str, str], tmp_path: Path) -> None:
    picture = tmp_path / "out.png"
    command = [bin_folder / "cascade", "generate", "a large red circle", "-o", picture, "--deadline", "60s", "--json"]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cascade"] == "shapes"
    assert picture.read_bytes().startswith(PNG)


def test_it_can_be_watched(serving: str, bin_folder: Path, bare: Mapping[str, str]) -> None:
    command = [bin_folder / "cascade", "top", "--once"]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "default/shapes" in done.stdout


def test_the_example_is_there_for_a_file_of_ones_own(bin_folder: Path, bare: Mapping[str, str], tmp_path: Path) -> None:
    told = subprocess.run([bin_folder / "cascade", "example"], env=bare, capture_output=True, text=True, check=True)
    assert told.stdout == (ROOT / "examples" / "shapes.yaml").read_text()
    mine = tmp_path / "cascade.yaml"
    mine.write_text(told.stdout)
    command = [bin_folder / "cascade", "plan", "-f", mine, "--demand", "5"]
    assert subprocess.run(command, env=bare, capture_output=True, check=False).returncode == 0


def test_the_wheel_says_its_version(bin_folder: Path, bare: Mapping[str, str]) -> None:
    done = subprocess.run([bin_folder / "cascade", "--version"], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout == f"cascade {VERSION}\n"


def test_chart_and_definitions_lie_beside_it_with_the_same_version() -> None:
    with tarfile.open(DIST / f"diffusion-cascade-{VERSION}.tgz") as chart:
        member = chart.extractfile("diffusion-cascade/Chart.yaml")
        assert member is not None
        told = yaml.safe_load(member)
    assert (told["version"], told["appVersion"]) == (VERSION, VERSION)
    bundle = list(yaml.safe_load_all((DIST / f"diffusion-cascade-crds-{VERSION}.yaml").read_text()))
    assert {document["kind"] for document in bundle} == {"CustomResourceDefinition"}
    assert len(bundle) == len(list((ROOT / "crds").glob("*.yaml")))

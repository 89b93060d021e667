"""The tutorial for a laptop, command by command as it stands, and the manifest of the one for GPUs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cascade_api.cascade import DiffusionCascade
from cascade_api.local import read_addresses
from cascade_operator.local.state import StateDir
from support.local_run import ANY_PORTS, HUNG_S, ROOT, LocalRun

pytestmark = pytest.mark.contract

TUTORIALS = ROOT / "docs" / "tutorials"
HOW_TO = ROOT / "docs" / "howto"


def commands_of(page: Path) -> list[str]:
    """The commands of a page, in order; one that goes on in the next line is one."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[LocalRun]:
    """A folder with what the commands need of the checkout, whose local state is its own."""
    run = LocalRun(tmp_path)
    run.state = StateDir(tmp_path / "diffusion-cascade")
    for name in (".venv", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    yield run
    run.end()


def test_the_tutorial_for_a_laptop_works_as_it_is_written(checkout: LocalRun) -> None:
    commands = commands_of(TUTORIALS / "laptop.md")
    # This test runs in what `make setup` made.
    assert commands.pop(0) == "make setup"
    printed = {command: run_in(checkout, command) for command in commands}

    def output(part: str) -> str:
        return next(text for command, text in printed.items() if part in command)

    assert '"route"' in output("generate")
    assert (checkout.directory / "out.png").stat().st_size > 0
    assert '"b64_json"' in (checkout.directory / "answer.json").read_text()
    assert "best quality at this demand" in output("plan -f examples/shapes.yaml --demand 5")
    assert "all 2 cpu accelerators that spec.workers allows are in use" in output("--demand 60")
    fewer, more = (
        expected_quality(run_in(checkout, f".venv/bin/cascade plan -f {file} --demand 30"))
        for file in ("one.yaml", "examples/shapes.yaml")
    )
    assert fewer < more
    assert checkout.supervisor is None, "the last command stops it"


def run_in(checkout: LocalRun, command: str) -> str:
    """What a command of a page prints, with ports and state of the test's own."""
    if "cascade up" in command:
        command = f"{command} {' '.join(ANY_PORTS)}"
    addresses = read_addresses(checkout.state.path)
    if addresses is not None:
        command = command.replace("127.0.0.1:8000", addresses.http)
    environment = {**os.environ, "XDG_STATE_HOME": str(checkout.directory)}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=checkout.directory, env=environment, capture_output=True, text=True,
        timeout=HUNG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    checkout.remember()
    return done.stdout


def expected_quality(plan: str) -> float:
    """The quality that `cascade plan` expects."""
    found = re.search(r"quality ([0-9.]+)", plan)
    assert found, plan
    return float(found[1])


def test_the_cascade_of_the_tutorial_for_gpus_is_valid_and_in_the_catalogue(tmp_path: Path) -> None:
    text = (TUTORIALS / "gpu-cluster.md").read_text()
    (manifest,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    cascade = DiffusionCascade.model_validate(yaml.safe_load(manifest))
    for variant in cascade.spec.variants:
        known = yaml.safe_load((ROOT / "model-repo" / "variants" / f"{variant.name}.yaml").read_text())
        assert (variant.model.source, variant.model.revision) == (known["source"], known["revision"])
        assert variant.settings.steps == known["steps"]


def test_the_commands_for_sizing_a_fleet_work() -> None:
    for command in commands_of(HOW_TO / "fleet-size.md"):
        done = subprocess.run(
            ["bash", "-ec", f".venv/bin/{command}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=HUNG_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

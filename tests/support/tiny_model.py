"""Fixture: a small diffusion model with random weights, made in the environment that has torch and diffusers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-diffusers"
LOADING_S = 600
"""Importing torch and diffusers takes a quiet core ten seconds, and several processes do so on busy ones."""


def run_there(script: str, *arguments: str | Path) -> str:
    """What a script of this folder prints in that environment."""
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", Path(__file__).parent / script, *arguments],
        check=False, capture_output=True, text=True, timeout=LOADING_S,
        env={**os.environ, "PYTHONPATH": str(ROOT / "model-repo"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and `judge`."""
    folder = tmp_path_factory.mktemp("tiny")
    run_there("tiny_diffusion.py", folder)
    return folder

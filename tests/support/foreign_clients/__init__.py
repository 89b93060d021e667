"""Clients that others wrote, each run as a process in an environment of their own, `.venv-clients`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = Path(__file__).parents[3] / ".venv-clients" / "bin" / "python"
LOADING_S = 300
"""A client's libraries take a quiet core three seconds to import, and busy ones much longer."""


def start_client(name: str, *arguments: str) -> subprocess.Popen[str]:
    """A client's script of this folder as a process; it prints what it found as JSON, see `found_by`."""
    pythonless = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.Popen(
        [PYTHON, HERE / f"{name}.py", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=pythonless,
    )  # fmt: skip


def found_by(client: subprocess.Popen[str]) -> Any:
    """What a client's process prints, once it has ended well."""
    try:
        printed, problems = client.communicate(timeout=LOADING_S)
    finally:
        client.kill()
    assert client.returncode == 0, problems
    return json.loads(printed)


def run_client(name: str, *arguments: str) -> Any:
    """What a client's script finds."""
    return found_by(start_client(name, *arguments))

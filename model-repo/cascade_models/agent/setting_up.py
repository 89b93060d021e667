"""Sets up Triton's environment in the user's data folder, where there is no checkout with one.

Triton and the engines need libraries that do not agree with the rest of the product, so they have a virtual environment
of their own. What is installed in it is locked in `triton.lock`, beside this file, and the folder is named after the
lock: another version of the product with another lock has another folder.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cascade_models.agent.installation import PYTHONS, LaunchError, has_library

LOCK: Final = Path(__file__).with_name("triton.lock")
READY: Final = ".ready"
"""A file in an environment that is complete."""
_SHOWN_LINES: Final = 5
_PROBE: Final = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2]); print(sys.base_exec_prefix)"
"""Asked of a Python: in PATH may be a script that starts it (pyenv), or a copy in an environment."""


def own_environment() -> Path:
    """The folder of this user's environment; raises RuntimeError if the user has no home."""
    data = os.environ.get("XDG_DATA_HOME")
    folder = Path(data) if data else Path.home() / ".local" / "share"
    return folder / "diffusion-cascade" / f"triton-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"


def default_environment() -> Path:
    """``CASCADE_TRITON_ENV``, else ``.venv-triton`` beside the running environment (a checkout), else this user's."""
    named = os.environ.get("CASCADE_TRITON_ENV")
    if named:
        return Path(named)
    beside = Path(sys.prefix).parent / ".venv-triton"
    try:
        return beside if beside.exists() else own_environment()
    except RuntimeError:  # no home folder
        return beside


def set_up(environment: Path, *, say: Callable[[str], None]) -> None:
    """Make an environment, unless it is complete; what is left of an earlier attempt is made anew.

    ``say`` is called with a line now and then while it downloads and installs. Raises LaunchError.
    """
    if (environment / READY).exists():
        return
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        with _alone(environment):
            if (environment / READY).exists():
                return
            shutil.rmtree(environment, ignore_errors=True)
            python = _suitable_python()
            say(f"setting up Triton in {environment}, once: downloads some 150 MB, and takes a minute or two")
            _run([python, "-m", "venv", str(environment)], heard=lambda line: None)
            _install(environment / "bin" / "python", say)
            (environment / READY).touch()
    except OSError as error:
        raise LaunchError(f"cannot set up Triton in {environment}: {error.strerror or error}") from None
    say("Triton is set up")


@contextmanager
def _alone(environment: Path) -> Iterator[None]:
    """Wait until nobody else sets this environment up; the kernel releases the lock of a process that dies."""
    with environment.with_name(environment.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(python: Path, say: Callable[[str], None]) -> None:
    """Install what the lock says, and tell how far it is."""
    names = [line.partition("==")[0] for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line]
    seen = 0

    def heard(line: str) -> None:
        nonlocal seen
        if line.startswith("Collecting "):
            seen += 1
        elif line.startswith("Downloading ") and line.endswith("MB)"):
            say(f"setting up Triton: package {seen} of {len(names)}, downloading {line.split()[1].split('-')[0]}")
        elif line.startswith("Installing collected packages"):
            say(f"setting up Triton: installing {len(names)} packages")

    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar=off"]
    _run([*pip, "--no-deps", "--requirement", str(LOCK)], heard=heard)


def _suitable_python() -> str:
    """A Python that Triton has a stub for: this one if it is, else one in PATH; raises LaunchError if there is none."""
    for name in (sys.executable, *(f"python{version}" for version in reversed(PYTHONS)), "python3"):
        found = shutil.which(name)
        if found is None:
            continue
        done = subprocess.run([found, "-I", "-c", _PROBE], capture_output=True, text=True, check=False)
        if done.returncode:
            continue
        version, prefix = done.stdout.splitlines()
        if version in PYTHONS and has_library(Path(prefix, "lib"), version):
            return found
    raise LaunchError(
        f"Triton needs a Python {' or '.join(PYTHONS)} with its shared library and with ensurepip, and finds none in "
        "PATH: install one (Debian and Ubuntu: python3-venv and libpython3-dev; or `uv python install 3.12`), or name "
        "an environment that holds nvidia-pytriton in CASCADE_TRITON_ENV"
    )


def _run(command: list[str], *, heard: Callable[[str], None]) -> None:
    """Run a command, with its lines for ``heard``; raises LaunchError with its last lines if it fails."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=inherited,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        for line in process.stdout:
            last.append(line.strip())
            heard(line.strip())
    if process.returncode:
        raise LaunchError("\n".join(["setting up Triton failed:", *last]))


def main(arguments: list[str]) -> None:
    """The command `cascade-triton setup`: makes this user's environment where no other is there; raises LaunchError."""
    argparse.ArgumentParser(
        prog="cascade-triton setup",
        description="Make Triton's environment in $XDG_DATA_HOME/diffusion-cascade, unless CASCADE_TRITON_ENV names "
        "one or .venv-triton lies beside the running environment. `cascade up` does the same.",
    ).parse_args(arguments)
    environment = default_environment()
    try:
        mine = environment == own_environment()
    except RuntimeError:
        mine = False
    if mine:
        set_up(environment, say=lambda line: print(line, flush=True))

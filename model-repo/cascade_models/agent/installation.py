"""Where Triton is on this machine, made usable for a server that this package starts.

The Triton environment is a virtual environment with the nvidia-pytriton wheel (`setting_up` makes one). The wheel
carries a genuine tritonserver, its python backend and one stub for each Python version, but not laid out as a server
expects them. So they are linked into a server folder, once for each environment. NVIDIA's image keeps Triton outside
the environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cascade_models import VERSION

PYTHONS: Final = ("3.11", "3.12")
"""The versions of Python for which the wheel has stubs, as far as this package runs on them."""
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LaunchError(Exception):
    """The server cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """Where Triton's parts are, and the environment that its stubs use.

    Attributes:
        server: the folder with bin, backends and caches.
        stub: what runs a model of the python backend.
        libraries: folders for the loader beside those it looks in anyway.
    """

    environment: Path
    server: Path
    stub: Path
    libraries: tuple[Path, ...]

    @classmethod
    def find(cls, environment: Path) -> Installation:
        """The Triton of a virtual environment, or else NVIDIA's, which its image keeps outside.

        Raises LaunchError where the environment or a part of it is missing.
        """
        fix = (
            "run `cascade-triton setup` without CASCADE_TRITON_ENV, or name the environment that holds nvidia-pytriton "
            "in that variable"
        )
        interpreter = environment / "bin" / "python"
        if not interpreter.exists():
            raise LaunchError(f"no Triton environment at {environment}: {fix}")
        for site in sorted(environment.glob("lib/python3.*/site-packages")):
            wheel = site / "pytriton" / "tritonserver"
            if (wheel / "bin" / "tritonserver").is_file():
                break
        else:
            server = Path(os.environ.get("CASCADE_TRITON_SERVER") or "/opt/tritonserver")
            if (server / "bin" / "tritonserver").is_file():
                stub = server / "backends" / "python" / "triton_python_backend_stub"
                return cls(environment=environment, server=server, stub=stub, libraries=())
            raise LaunchError(f"{environment} holds no tritonserver: {fix}")
        python = site.parent.name.removeprefix("python")
        if not (wheel / "python_backend_stubs" / python).is_dir():
            raise LaunchError(
                f"Triton has no stub for Python {python} of {environment}: use one of {' to '.join(PYTHONS)}"
            )
        python_libraries = Path(os.path.realpath(interpreter)).parent.parent / "lib"
        if not has_library(python_libraries, python):
            raise LaunchError(
                f"Python {python} of {environment} lacks {_library(python)} in {python_libraries}: "
                "make the environment with a Python that was built with --enable-shared"
            )
        return cls(
            environment=environment,
            server=wheel,
            stub=wheel / "python_backend_stubs" / python / "triton_python_backend_stub",
            libraries=(site / "nvidia_pytriton.libs", python_libraries),
        )

    def links(self) -> dict[str, Path]:
        """What a server folder holds: path in it to the file or folder that it stands for."""
        package = Path(__file__).resolve().parents[1]
        backend = self.server / "backends" / "python"
        return {
            "bin/tritonserver": self.server / "bin" / "tritonserver",
            "caches/local": self.server / "caches" / "local",
            "backends/python/libtriton_python.so": backend / "libtriton_python.so",
            "backends/python/triton_python_backend_utils.py": backend / "triton_python_backend_utils.py",
            "backends/python/triton_python_backend_stub": self.stub,
            # Stubs ignore PYTHONPATH but import from this folder: this package, and nothing else of its environment,
            # whose numpy may not suit Triton.
            f"backends/python/{package.name}": package,
        }


def has_library(libraries: Path, python: str) -> bool:
    """Whether a folder of libraries has the shared library that stubs for this version of Python need."""
    folders = (libraries, libraries / str(sysconfig.get_config_var("MULTIARCH")))
    return any((folder / _library(python)).exists() for folder in folders)


def _library(python: str) -> str:
    return f"libpython{python}.so.1.0"


def server_folder(installation: Installation) -> Path:
    """The folder of links for an installation, made when it is not there yet; safe beside other launchers.

    Raises LaunchError where it cannot be written.
    """
    links = installation.links()
    missing = [str(target) for target in links.values() if not target.exists()]
    if missing:
        raise LaunchError(
            f"{installation.environment} is incomplete, it lacks {missing[0]}: remove it and set it up anew"
        )
    identity = hashlib.sha256("\n".join(f"{name}={target}" for name, target in links.items()).encode()).hexdigest()
    parent = installation.environment / "share" / "cascade-triton"
    folder = parent / identity[:16]
    if folder.is_dir() and is_plain(folder):
        return folder
    writable = os.access(parent if parent.is_dir() else installation.environment, os.W_OK)
    if not (writable and is_plain(folder)):
        # A container's root file system is read-only; and what is in a folder of links may be anywhere.
        parent = _private_folder()
        folder = parent / identity[:16]
        if folder.is_dir():
            return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        for name, target in links.items():
            link = scratch / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            # Another launcher was first; its links are the same.
            shutil.rmtree(scratch)
            if not folder.is_dir():
                raise
    except OSError as error:
        raise LaunchError(f"cannot write the server folder {folder}: {error.strerror}") from None
    return folder


def _private_folder() -> Path:
    """This user's folder for temporary server folders: what lies there is run, so nobody else may have written it.

    Raises LaunchError where somebody else has made it, or could write to it.
    """
    user = os.geteuid()
    folder = Path(tempfile.gettempdir()) / f"cascade-triton-{user}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()
    except OSError as error:
        raise LaunchError(f"cannot write the server folder {folder}: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return folder
    raise LaunchError(
        f"{folder} is not a folder of user {user} alone (mode 0700), so others may have put programs there: "
        "remove it, or name another folder in TMPDIR"
    )


def is_plain(path: Path) -> bool:
    """Whether Triton can use a path: it starts stubs through a shell, with words unquoted, and in the C locale."""
    return shlex.quote(str(path)) == str(path)


def check_usable(path: Path, option: str) -> None:
    """Raises LaunchError where Triton cannot use a path; ``option`` is what names another."""
    if not is_plain(path):
        raise LaunchError(
            f"Triton cannot use {str(path)!r}: name a folder, with {option}, whose path has no white space, "
            "only ASCII letters, digits and _@%+=:,./-"
        )


def server_environment(installation: Installation, inherited: dict[str, str]) -> dict[str, str]:
    """Environment variables of the server and, through it, of its stubs."""
    values = {name: value for name, value in inherited.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    values |= dict.fromkeys(_ONE_THREAD, "1") | {VERSION: version("diffusion-cascade")}
    if installation.libraries:
        values["LD_LIBRARY_PATH"] = ":".join(map(str, installation.libraries))
    values["PATH"] = f"{installation.environment / 'bin'}:{inherited.get('PATH', os.defpath)}"
    return values

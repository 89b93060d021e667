"""The state directory of a local run: lock, process ids, logs, sockets, and the remains of a crash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from cascade_api.failures import CommandFailed
from cascade_api.local import ADDRESSES_FILE
from cascade_api.names import CascadeRef
from cascade_api.status import CascadeStatus, WorkerPoolStatus

from ..snapshot import PoolRef

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux keeps it, and so Triton
SERVER_PROGRAMS: Final = ("tritonserver", "triton_python_backend_stub")
LOCK_PATIENCE_S: Final = 5.0
REDIS_SETTINGS_FILE: Final = "redis.conf"
WRITTEN: Final = (
    ADDRESSES_FILE,
    REDIS_SETTINGS_FILE,
    "status.*.*.json",
    "status.*.*.new",
    "pool.*.*.json",
    "pool.*.*.new",
    *(f"pids/{p}.pid" for p in ("redis", "router", "cpu-*")),
)
"""The files that are useless after a run has ended; other files of the directory may belong to somebody else."""


class AlreadyRunning(Exception):
    """Another `cascade up` holds the state directory; ``pid`` is its process id."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid}")
        self.pid = pid


@dataclass(frozen=True)
class StateDir:
    """The paths in one state directory, and the name of its processes and shared memory."""

    path: Path

    @property
    def instance(self) -> str:
        """A name that is unique to this state directory on this machine; every server's command line contains it."""
        return "dcas-" + hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:10]

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def manifest(self) -> Path:
        """A copy of the manifest that is served."""
        return self.path / "manifest.yaml"

    @property
    def redis_settings(self) -> Path:
        """The settings of the run's own Redis, with its password."""
        return self.path / REDIS_SETTINGS_FILE

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def pids(self) -> Path:
        return self.path / "pids"

    @property
    def sockets(self) -> Path:
        """The folder of the agents, with their Unix sockets and model repositories, as `make_sockets` made it."""
        return self._sockets_link.readlink()

    @property
    def _sockets_link(self) -> Path:
        return self.path / "sockets"

    def make_sockets(self) -> None:
        """Make the folder for the agents and their sockets. It is private, since whoever reaches them has control.

        It is a temporary folder, since the path of a socket must be short; a link in the state directory points to it.
        """
        self._remove_sockets()
        self._sockets_link.symlink_to(tempfile.mkdtemp(prefix=f"{self.instance}."))

    def _remove_sockets(self) -> None:
        try:
            folder = self.sockets
        except OSError:
            return
        if folder.name.startswith(f"{self.instance}."):
            shutil.rmtree(folder, ignore_errors=True)
        self._sockets_link.unlink()

    def log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def prepare(self) -> None:
        """Make the directories; raises CommandFailed if that is not allowed, or if Triton cannot use the path."""
        place = str(self.path.absolute())
        # Triton starts a model's process through a shell without quoting the path, and in the C locale.
        if shlex.quote(place) != place:
            raise CommandFailed(
                f"--state-dir: Triton cannot load models from {place!r}: name a folder, with --state-dir or "
                "XDG_STATE_HOME, whose path has no white space, only ASCII letters, digits and _@%+=:,./-",
                code=2,
            )
        try:
            for folder in (self.path, self.logs, self.pids):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise CommandFailed(f"--state-dir: cannot write {self.path}: {error.strerror}") from None

    def replica_id(self, slot: str) -> str:
        """The replica id of a slot's server; the names of its shared memory begin with this and a dot."""
        return f"{self.instance}.{slot}"

    def write_pid(self, name: str, pid: int) -> None:
        (self.pids / f"{name}.pid").write_text(f"{pid}\n")

    def forget_pid(self, name: str) -> None:
        (self.pids / f"{name}.pid").unlink(missing_ok=True)

    def read_pids(self) -> dict[str, int]:
        """The process ids of the children, by name."""
        found: dict[str, int] = {}
        for file in sorted(self.pids.glob("*.pid")):
            try:
                found[file.stem] = int(file.read_text())
            except (ValueError, FileNotFoundError):
                continue
        return found

    def write_status(self, ref: CascadeRef, status: CascadeStatus) -> None:
        """Replace a cascade's status atomically."""
        _replace(self._status_file(ref), status.model_dump_json(by_alias=True))

    def read_status(self, ref: CascadeRef) -> CascadeStatus | None:
        """A cascade's last status, or None."""
        try:
            return CascadeStatus.model_validate_json(self._status_file(ref).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_pool_status(self, ref: PoolRef, status: WorkerPoolStatus) -> None:
        """Replace a WorkerPool's status atomically."""
        _replace(self._pool_status_file(ref.namespace, ref.name), status.model_dump_json(by_alias=True))

    def read_pool_status(self, namespace: str, name: str) -> WorkerPoolStatus | None:
        """A WorkerPool's last status, or None."""
        try:
            return WorkerPoolStatus.model_validate_json(self._pool_status_file(namespace, name).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _pool_status_file(self, namespace: str, name: str) -> Path:
        return self.path / f"pool.{namespace}.{name}.json"

    def _status_file(self, ref: CascadeRef) -> Path:
        return self.path / f"status.{ref.namespace}.{ref.name}.json"

    def holder(self) -> int | None:
        """The process id of the `cascade up` that holds the directory now, or None; raises CommandFailed."""
        file = self._open_lock()
        if file is None:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _pid_in(file)
        return None

    def crashed(self) -> int | None:
        """The process id of a `cascade up` that ended without cleaning up, or None; raises CommandFailed."""
        if self.holder() is not None:
            return None
        file = self._open_lock()
        if file is None:
            return None
        with file:
            return _pid_in(file)

    def _open_lock(self) -> IO[str] | None:
        """The opened lock file, or None if there is none; raises CommandFailed."""
        try:
            return self.lock_file.open("r")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CommandFailed(f"--state-dir: cannot read {self.lock_file}: {error.strerror}") from None

    def segments(self) -> list[Path]:
        """Shared-memory segments of this directory's servers."""
        return sorted(SHARED_MEMORY.glob(f"{self.instance}.*")) if SHARED_MEMORY.is_dir() else []

    def processes(self) -> list[psutil.Process]:
        """The servers and stubs of this directory, whatever their parent process is now."""
        mark = f"{self.instance}."
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or [""]
            if Path(command[0]).name in SERVER_PROGRAMS and any(mark in argument for argument in command):
                found.append(process)
        return found

    def sweep(self) -> list[str]:
        """Remove the remains of a crash: orphaned servers and stubs, shared memory, stale files.

        Call it only if nobody holds the directory. Returns one line for each kind of thing that was removed.
        """
        done = []
        orphans = self.processes()
        for process in orphans:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        if orphans:
            psutil.wait_procs(orphans, timeout=3)
            done.append(f"ended {len(orphans)} orphaned server processes")
        segments = self.segments()
        for segment in segments:
            segment.unlink(missing_ok=True)
        if segments:
            done.append(f"removed {len(segments)} shared-memory segments")
        self._remove_sockets()
        for file in (file for name in WRITTEN for file in self.path.glob(name)):
            file.unlink(missing_ok=True)
        return done


class Lock:
    """Exclusive use of a state directory; the kernel releases it when the process ends."""

    def __init__(self, state: StateDir) -> None:
        """Take the lock; raises AlreadyRunning, or CommandFailed if it cannot be written."""
        try:
            self._file = state.lock_file.open("a+")
        except OSError as error:
            raise CommandFailed(f"--state-dir: cannot write {state.lock_file}: {error.strerror}") from None
        until = time.monotonic() + LOCK_PATIENCE_S
        while not self._taken():
            holder = _pid_in(self._file)
            # A command that only reads the holder has the lock for a moment; then the file names no living process.
            if (holder is not None and psutil.pid_exists(holder)) or time.monotonic() > until:
                self._file.close()
                raise AlreadyRunning(holder or 0)
            time.sleep(0.05)
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "started": time.time()}))
        self._file.flush()

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Release the directory, so that it does not look like a crash."""
        self._file.truncate(0)
        self._file.close()


def _replace(target: Path, text: str) -> None:
    """Replace a file atomically."""
    scratch = target.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(target)


def _pid_in(file: IO[str]) -> int | None:
    file.seek(0)
    try:
        return int(json.loads(file.read())["pid"])
    except (ValueError, KeyError, TypeError):
        return None

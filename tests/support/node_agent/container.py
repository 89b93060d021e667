"""Runs one command as a container would: process, mount and host-name namespaces and a root of its own.

Started by the node agent as ``python container.py SPEC.json`` with the standard library only. Where the specification
names a user, the command runs with that number, in a user namespace: no entry of it exists, and it may read and write
what the user who started it may. The process stays as
the container's keeper: it passes SIGTERM on, ends as the command ended (128 + signal where one ended it), and takes
the container along when the process that started it dies.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x04000000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MS_NOEXEC, MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 8, 1024, 2048, 1 << 21
KEPT = {
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
}
"""Options of a mount that a user namespace may not take off it, by their names in mountinfo."""
PR_SET_PDEATHSIG = 1
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps it
SHARED_MEMORY_SIZE = "size=67108864"
"""What container runtimes give /dev/shm."""

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """A function of the C library; raises OSError where it fails."""
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def die_with_parent() -> None:
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)


def separate(spec: dict[str, Any]) -> None:
    """Leave the host's namespaces; who is not root needs a user namespace for that."""
    if os.geteuid():
        become_user(spec["user"] or 0)
    call("unshare", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS)


def become_user(number: int) -> None:
    """Enter a user namespace that shows this process's user as ``number``, with its group as group 0.

    All capabilities are held in it until a program is executed; then only where ``number`` is 0.
    """
    user, group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{number} {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mirror(source: str, target: str, wanted: dict[str, bool]) -> None:
    """Show the host's ``source`` at ``target``, with room for the ``wanted`` paths below it that the host lacks.

    Args:
        wanted: whether each is a folder, by path.
    """
    prefix = source.rstrip("/") + "/"
    below = {path: folder for path, folder in wanted.items() if path.startswith(prefix) and not os.path.exists(path)}
    if not below and source != "/":
        mount(source, target, flags=MS_BIND | MS_REC)
        return
    for entry in os.scandir(source):
        place = os.path.join(target, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
        elif entry.path == "/proc":
            os.mkdir(place)
        elif entry.is_dir():
            os.mkdir(place)
            mirror(entry.path, place, below)
        else:
            Path(place).touch()
            mount(entry.path, place, flags=MS_BIND)
    for path, folder in below.items():
        make_mount_point(target + "/" + path.removeprefix(prefix), folder=folder)


def make_mount_point(place: str, *, folder: bool) -> None:
    if folder:
        os.makedirs(place, exist_ok=True)
    elif not os.path.exists(place):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        Path(place).touch()


def build_root(spec: dict[str, Any]) -> None:
    """Make the container's file system at ``spec["root"]`` and go there."""
    root = spec["root"]
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs")
    # A mount path may lead through a link of the host, such as /var/run.
    volumes = {os.path.realpath(entry["target"]): entry for entry in spec["mounts"]}
    mirror("/", root, {target: os.path.isdir(entry["source"]) for target, entry in volumes.items()})
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV)
    mount("tmpfs", f"{root}{SHARED_MEMORY}", "tmpfs", MS_NOSUID | MS_NODEV, SHARED_MEMORY_SIZE)
    if spec["readOnlyRoot"]:
        make_read_only(root)
    for target in sorted(volumes, key=lambda target: target.count("/")):
        entry, place = volumes[target], root + target
        make_mount_point(place, folder=os.path.isdir(entry["source"]))
        mount(entry["source"], place, flags=MS_BIND | MS_REC)
        if entry["readOnly"]:
            mount("none", place, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    if spec["user"] and not os.geteuid():
        become_user(spec["user"])
    os.chroot(root)


def make_read_only(root: str) -> None:
    """All of it but what the kernel provides, and but this root's own image in what shows its parent folder."""
    writable = ("/proc", "/dev", "/sys", root)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, options = line.split()[4:6]
        if place.startswith(root) and not place.removeprefix(root).startswith(writable):
            kept = sum(KEPT.get(option, 0) for option in options.split(","))
            mount("none", place, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def become(spec: dict[str, Any]) -> NoReturn:
    """In the container's first process: turn into the command."""
    try:
        die_with_parent()
        host = spec["hostname"].encode()
        call("sethostname", host, len(host))
        build_root(spec)
        os.chdir(spec["directory"])
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(spec["command"][0], spec["command"], spec["environment"])  # noqa: S606 - what it is for
    except OSError as error:
        sys.stderr.write(f"container: {spec['command'][0]}: {error}\n")
        os._exit(127)


def main() -> int:
    """Keep the container until it ends; its exit code."""
    die_with_parent()
    spec = json.loads(Path(sys.argv[1]).read_text())
    # Blocked until they can be passed on: a signal must not end the keeper before the container.
    passed_on = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    separate(spec)
    child = os.fork()
    if child == 0:
        become(spec)
    for number in passed_on:
        signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main())

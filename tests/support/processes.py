"""Processes of ours and of others, which may be gone at any moment that a test looks at them."""

from __future__ import annotations

import psutil


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which a process takes connections."""
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def runs(process: psutil.Process | int) -> bool:
    """Whether a process (or process id) still runs; a zombie does not."""
    try:
        found = process if isinstance(process, psutil.Process) else psutil.Process(process)
        return found.is_running() and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """The children of a process that still run; none if the process itself is gone."""
    try:
        return [child for child in psutil.Process(pid).children(recursive=recursive) if runs(child)]
    except psutil.NoSuchProcess:
        return []


def command_of(process: psutil.Process) -> str:
    """The command line of a process; empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""

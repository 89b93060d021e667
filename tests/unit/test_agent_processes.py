"""The agent looks after processes that nobody else looks after."""

from __future__ import annotations

import subprocess
import sys

FIRST_PROCESS = """
import ctypes, os, subprocess, sys, time
from cascade_models.agent.processes import bury_orphans

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
parent = subprocess.run(["sh", "-c", "true & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
orphan = int(parent.stdout)
until = time.monotonic() + 30
while not bury_orphans() and time.monotonic() < until:
    time.sleep(0.01)
print("zombie" if os.path.exists(f"/proc/{orphan}") else "buried", bury_orphans())
"""
"""A process that is given the orphans among its descendants, as the first process of a container is."""


def test_an_orphan_that_died_leaves_no_zombie() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_PROCESS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["buried", "0"]

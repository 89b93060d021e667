"""A process notices that it stood still or that its server is gone; a busy one is left alone. With real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from cascade_models.serving.pulse import LIMIT_S
from support.processes import children, runs
from support.waiting import PATIENCE_S, wait_for

NOTICED_S = 0.7
"""Triton looks for a sign of life for a second, and they come every 0.3 s."""

PROGRAM = """
import ctypes, os, sys, time
from cascade_models.serving.pulse import Pulse

def end(reason):
    print(reason, flush=True)
    os._exit(3)

pulse = Pulse(end)
pulse.guard()
{before}
print("ready", flush=True)
sys.stdin.readline()
{after}
print("alive", flush=True)
"""


@contextmanager
def program(before: str = "", after: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process with a pulse; goes on to ``after`` when it is written to."""
    code = PROGRAM.format(before=before, after=after)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def keeper_of(process: subprocess.Popen[str]) -> psutil.Process:
    (keeper,) = children(process.pid)
    return keeper


def stand_still(process: subprocess.Popen[str]) -> None:
    """Stops a process and its keeper for as long as the server may notice."""
    for one in (keeper_of(process), process):
        one.send_signal(signal.SIGSTOP)
    time.sleep(NOTICED_S)


def go_on(process: subprocess.Popen[str]) -> str:
    """What the process says when it may go on; it wakes up to find its input there, and before its keeper."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    keeper = keeper_of(process)
    process.send_signal(signal.SIGCONT)
    said = process.stdout.readline()
    keeper.send_signal(signal.SIGCONT)
    return said


def test_the_keeper_ends_a_process_that_stands_still_before_it_wakes_up() -> None:
    with program() as process:
        keeper = keeper_of(process)
        process.send_signal(signal.SIGSTOP)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        wait_for(lambda: not runs(keeper), what="the keeper to end")


def test_a_keeper_that_stood_still_too_looks_anew() -> None:
    with program() as process:
        stand_still(process)
        keeper_of(process).send_signal(signal.SIGCONT)
        time.sleep(LIMIT_S / 4)
        assert go_on(process) == "alive\n"


@pytest.mark.parametrize("end", ["pulse.close()", "os._exit(0)"])
def test_the_keeper_ends_with_its_process(end: str) -> None:
    with program(after=f"{end}; sys.stdin.readline()") as process:
        keeper = keeper_of(process)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for(lambda: not runs(keeper), what="the keeper to end")


def test_with_a_request_in_hand_it_ends_before_it_says_anything_about_it() -> None:
    with program("pulse.came(2); pulse.answered()", "pulse.settle()") as process:
        stand_still(process)
        assert "stood still with requests in hand" in go_on(process)
        assert process.wait(PATIENCE_S) == 3


def test_a_batch_that_was_sent_meanwhile_is_not_begun() -> None:
    with program(after="pulse.came(1)") as process:
        stand_still(process)
        assert "stood still when a batch came" in go_on(process)


def test_without_a_request_it_stands_still_as_long_as_it_likes() -> None:
    after = "pulse.settle(); time.sleep(2); pulse.came(1); pulse.answered()"
    with program("pulse.came(1); pulse.answered()", after) as process:
        stand_still(process)
        assert go_on(process) == "alive\n"


@pytest.mark.parametrize(
    "work",
    [
        "sum(range(60_000_000))",
        "ctypes.PyDLL(None).usleep(2_000_000)",
        "time.sleep(2)",
    ],
    ids=["computing", "holding Python's lock without computing", "waiting"],
)
def test_being_busy_is_not_standing_still(work: str) -> None:
    with program(after=f"pulse.came(1); {work}; pulse.answered(); pulse.came(1)") as process:
        assert go_on(process) == "alive\n"


def test_a_process_whose_server_is_gone_ends() -> None:
    child = PROGRAM.format(before="print(os.getpid(), flush=True)", after="")
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        model = int(server.stdout.readline())
        os.kill(server.pid, signal.SIGKILL)
        assert server.stdout.readline() == "ready\n"
        assert server.stdout.readline() == "its server is gone\n"
        # Not waited for yet, the server is a zombie, which still counts as a process to those that send it signals.
        os.kill(server.pid, 0)
    wait_for(lambda: not os.path.exists(f"/proc/{model}"), what="the model process to be gone")

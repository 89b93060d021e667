"""Children in local mode are restarted when they die, end with all their children, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cascade_operator.local.state import StateDir
from cascade_operator.local.supervisor import (
    Backoff,
    Child,
    ChildFailed,
    Program,
    Supervised,
    describe_exit,
    script,
)
from support.processes import runs
from support.waiting import PATIENCE_S, eventually, wait_for

SLEEPS = "import sys; print('up', flush=True); sys.stdin.close(); import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
PARENT_OF_ONE = """
import subprocess, sys, signal
grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(grandchild.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.prepare()
    return state


def program(code: str, name: str = "child", **options: int) -> Program:
    return Program(name=name, command=[sys.executable, "-c", textwrap.dedent(code)], **options)


def logged(state: StateDir, name: str = "child") -> str:
    return state.log_file(name).read_text()


async def test_a_child_has_a_log_a_pid_file_and_its_nice_value(state: StateDir) -> None:
    child = await Child.start(program(SLEEPS, nice=3), state)
    await eventually(lambda: logged(state) == "up\n", what="its output")
    assert state.read_pids() == {"child": child.pid}
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3
    await child.stop(grace_s=PATIENCE_S)
    assert state.read_pids() == {}
    assert child.ended.result() == -signal.SIGTERM


async def test_a_child_that_does_not_listen_is_killed(state: StateDir) -> None:
    child = await Child.start(program(STUBBORN), state)
    await eventually(lambda: logged(state) == "up\n", what="its output")
    await child.stop(grace_s=0.1)
    assert child.ended.result() == -signal.SIGKILL


async def test_what_a_child_started_ends_with_it(state: StateDir) -> None:
    child = await Child.start(program(PARENT_OF_ONE), state)
    grandchild = int(await eventually(lambda: logged(state).strip(), what="the grandchild's id"))
    os.kill(child.pid, signal.SIGKILL)
    await eventually(lambda: not runs(grandchild), what="the grandchild ends")
    await child.stop(grace_s=0)


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    code = f"""
    import asyncio, sys
    from pathlib import Path
    from cascade_operator.local.state import StateDir
    from cascade_operator.local.supervisor import Child, Program
    async def main():
        state = StateDir(Path(sys.argv[1])); state.prepare()
        child = await Child.start(Program("child", [sys.executable, "-c", {SLEEPS!r}]), state)
        while state.log_file("child").read_text() != "up\\n":
            await asyncio.sleep(0.01)
        print(child.pid, flush=True)
        await asyncio.Event().wait()
    asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
    wait_for(lambda: not runs(child), what="the child dies")


async def test_a_program_that_dies_is_started_again(state: StateDir) -> None:
    said: list[str] = []

    async def ready() -> bool:
        return "child" in state.read_pids() and logged(state).endswith("up\n")

    kept = Supervised(lambda: program(SLEEPS), state=state, ready=ready, say=said.append)
    await kept.start(timeout_s=PATIENCE_S)
    first = state.read_pids()["child"]
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: state.read_pids().get("child", first) != first, what="another process")
    await eventually(lambda: len(said) == 2, what="it is told")
    assert said[0] == "child ended (killed by SIGKILL): starting it again"
    assert said[1].startswith("child is back after")
    second = state.read_pids()["child"]
    await kept.stop(grace_s=PATIENCE_S)
    assert not runs(second)


async def test_a_program_that_does_not_start_says_why(state: StateDir) -> None:
    async def never() -> bool:
        return False

    kept = Supervised(lambda: program("raise SystemExit('no such thing')"), state=state, ready=never, say=print)
    with pytest.raises(ChildFailed, match=r"(?s)child ended with status 1.*no such thing"):
        await kept.start(timeout_s=PATIENCE_S)
    await kept.stop(grace_s=1)


def test_waits_grow_while_a_program_keeps_dying_and_are_forgotten_when_it_runs() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert backoff.after(60.0) == 0.0


def test_exits_are_told_in_words() -> None:
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(3) == "exit status 3"
    with pytest.raises(ChildFailed, match="no command cascade-nothing"):
        script("cascade-nothing")

"""There is one run per state directory, and what a crash leaves behind is found and removed."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascade_api.command import CommandFailed
from cascade_api.local import read_addresses
from cascade_api.names import CascadeRef
from cascade_api.status import CascadeStatus
from cascade_operator.local import ending
from cascade_operator.local.logs import keep_logs_bounded, log_tail
from cascade_operator.local.ports import check_free, parse_address
from cascade_operator.local.state import SHARED_MEMORY, AlreadyRunning, Lock, StateDir
from support.processes import runs
from support.waiting import PATIENCE_S, wait_for

HOLD_THE_LOCK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cascade_operator.local.state import Lock, StateDir
lock = Lock(StateDir(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.prepare()
    return state


def hold_elsewhere(state: StateDir) -> subprocess.Popen[bytes]:
    """Another process that holds the lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(state.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_second_run_is_told_who_holds_the_directory(state: StateDir) -> None:
    holder = hold_elsewhere(state)
    assert state.holder() == holder.pid
    with pytest.raises(AlreadyRunning) as refused:
        Lock(state)
    assert refused.value.pid == holder.pid
    holder.kill()
    holder.wait()


def test_a_killed_run_leaves_no_lock_but_is_known_to_have_crashed(state: StateDir) -> None:
    holder = hold_elsewhere(state)
    assert state.crashed() is None
    holder.kill()
    holder.wait()
    assert state.holder() is None
    assert state.crashed() == holder.pid
    Lock(state).release()
    assert state.crashed() is None


def test_whoever_only_asks_keeps_no_run_from_starting(state: StateDir) -> None:
    Lock(state).release()
    with state.lock_file.open() as asking, ThreadPoolExecutor(1) as starting:
        fcntl.flock(asking, fcntl.LOCK_SH)
        taken = starting.submit(Lock, state)
        fcntl.flock(asking, fcntl.LOCK_UN)
        taken.result(PATIENCE_S).release()


def test_sweeping_ends_orphaned_servers_and_removes_their_memory(state: StateDir, tmp_path: Path) -> None:
    # An interpreter of that name stands in for a server.
    python = tmp_path / "tritonserver"
    python.symlink_to(sys.executable)
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    orphan, stranger = (
        subprocess.Popen([python, "-c", script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in (f"{state.replica_id('cpu-0')}.9001", "dcas-0000000000.cpu-0.9001")
    )
    for process in (orphan, stranger):
        assert process.stdout is not None
        process.stdout.readline()
    segment = SHARED_MEMORY / f"{state.replica_id('cpu-1')}.9001.test"
    segment.touch()
    (state.path / "addresses.json").write_text("{}")
    others = [state.path / "status.txt", state.pids / "theirs.pid"]
    for file in others:
        file.touch()
    state.write_pid("cpu-0", orphan.pid)
    done = state.sweep()
    wait_for(lambda: not runs(orphan.pid), what="the orphan to end")
    assert stranger.poll() is None
    assert not segment.exists()
    assert state.read_pids() == {}
    assert not (state.path / "addresses.json").exists()
    assert all(file.exists() for file in others)
    assert len(done) == 2
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("name", ["white space", "quote's", "ünicode"])
def test_a_directory_that_triton_cannot_load_from_is_refused_with_the_ways_to_name_another(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandFailed, match=r"--state-dir: .* with --state-dir or XDG_STATE_HOME"):
        StateDir(tmp_path / name / "state").prepare()
    assert not any(tmp_path.iterdir())


def test_where_nothing_ran_down_touches_nothing(tmp_path: Path) -> None:
    theirs = [tmp_path / name for name in ("addresses.json", "status.a.b.json", "pids/router.pid", "file")]
    (tmp_path / "pids").mkdir()
    for file in theirs:
        file.touch()
    said: list[str] = []
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        ending.stop(StateDir(path), say=said.append)
        assert said.pop() == f"nothing runs from {path}"
        assert read_addresses(path) is None
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(theirs)


def test_down_tidies_up_after_a_killed_run(state: StateDir) -> None:
    holder = hold_elsewhere(state)
    holder.kill()
    holder.wait()
    state.write_pid("router", holder.pid)
    said: list[str] = []
    ending.stop(state, say=said.append)
    assert said == [f"process {holder.pid} had ended without cleaning up"]
    assert state.read_pids() == {}
    assert state.crashed() is None


def test_the_sockets_are_in_a_folder_of_the_user_s_own_that_goes_with_the_run(state: StateDir) -> None:
    state.make_sockets()
    first = state.sockets
    assert first.stat().st_mode & 0o777 == 0o700
    (first / "cpu-0:1").touch()
    state.make_sockets()
    assert state.sockets != first
    assert not first.exists(), "what a run that crashed left is removed"
    second = state.sockets
    state.sweep()
    assert not second.exists()
    state.sweep()


def test_a_link_to_what_is_not_ours_is_not_followed(state: StateDir, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (state.path / "sockets").symlink_to(tmp_path / "theirs")
    state.sweep()
    assert (tmp_path / "theirs").is_dir()


def test_two_directories_never_share_a_name(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path / "a"), StateDir(tmp_path / "b")
    assert first.instance != second.instance
    assert StateDir(tmp_path / "b" / ".." / "a").instance == first.instance


def test_status_is_kept_by_cascade(state: StateDir) -> None:
    ref = CascadeRef("default", "shapes")
    assert state.read_status(ref) is None
    state.write_status(ref, CascadeStatus(chain=["light", "heavy"]))
    kept = state.read_status(ref)
    assert kept is not None
    assert kept.chain == ["light", "heavy"]


def test_logs_are_bounded_while_their_writers_go_on(state: StateDir) -> None:
    log = state.log_file("router")
    with log.open("a") as writer:
        writer.write("x" * 2000)
        writer.flush()
        keep_logs_bounded(state, limit_bytes=1000)
        assert log.stat().st_size == 0
        writer.write("after\n")
    assert log.read_text() == "after\n"
    assert log_tail(log) == "    after"
    assert (state.logs / "router.log.1").stat().st_size == 2000


def test_a_port_in_use_is_named_with_its_user_and_the_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed) as failure:
            check_free(parse_address(f"127.0.0.1:{port}", flag="--grpc"), flag="--grpc")
    message = str(failure.value)
    assert f"--grpc: port {port} of 127.0.0.1 is in use" in message
    assert f"process {os.getpid()}" in message
    assert "choose another port with --grpc" in message


@pytest.mark.parametrize("text", ["8001", "localhost", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:²", ":8001"])
def test_an_address_that_is_none_is_refused_by_flag(text: str) -> None:
    with pytest.raises(CommandFailed, match="is not HOST:PORT") as failure:
        parse_address(text, flag="--http")
    assert failure.value.code == 2


@pytest.mark.parametrize("text", ["a..b:80", "203.0.113.1:0", "203.0.113.1:80"])
def test_a_host_that_is_not_this_machine_is_refused_by_flag(text: str) -> None:
    with pytest.raises(CommandFailed, match=f"--http: cannot listen on {text}: "):
        check_free(parse_address(text, flag="--http"), flag="--http")


def test_port_zero_becomes_a_free_one() -> None:
    address = parse_address("127.0.0.1:0", flag="--grpc")
    assert address.port > 0
    check_free(address, flag="--grpc")

"""The worker's agent with a real Triton: it hosts what it is told, mends what breaks, and listens to nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from cascade_models import probe
from support.agent import AgentProcess, host_entries
from support.ports import free_port
from support.processes import children, runs
from support.triton import LAUNCHER, LIGHT, model_of
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract
BOTH = ("shapes-light", "shapes-heavy")
KEY = "k" * 40
LIGHT_MODEL = {"source": "builtin://shapes", "weights": "light"}
RESTRICTED = "This protocol is restricted"


@pytest.fixture
def hosting(agent: AgentProcess) -> AgentProcess:
    """An agent that hosts both built-in weights."""
    agent.host(*BOTH)
    agent.wait_hosted(*BOTH)
    return agent


def test_what_it_is_told_is_hosted_and_draws(hosting: AgentProcess) -> None:
    assert all(hosting.draws(variant) for variant in BOTH)


def test_whoever_waits_for_a_change_hears_of_it(agent: AgentProcess) -> None:
    number = agent.host()["number"]
    heard: list[int] = []
    waiting = threading.Thread(
        target=lambda: heard.append(agent.ask("GET", f"/hosts?changed_since={number}").json()["number"])
    )
    waiting.start()
    agent.host("shapes-light")
    waiting.join(PATIENCE_S)
    assert heard
    assert heard[0] != number


@pytest.mark.parametrize("room", [True, False])
def test_one_goes_while_the_other_serves(hosting: AgentProcess, room: bool) -> None:
    serving, kept = threading.Event(), hosting.stub("shapes-heavy")
    failures: list[Exception] = []

    def ask_on() -> None:
        while not serving.is_set():
            try:
                hosting.draws("shapes-heavy")
            except Exception as error:
                failures.append(error)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        hosting.host("shapes-heavy", room=room)
        hosting.wait_hosted("shapes-heavy")
        hosting.host(*BOTH, room=room)
        hosting.wait_hosted(*BOTH)
    finally:
        serving.set()
        asking.join()
    assert failures == []
    assert hosting.stub("shapes-heavy") == kept, "nothing was loaded again"


def test_what_is_not_wanted_any_more_gives_back_its_process_and_memory(hosting: AgentProcess) -> None:
    gone, before = hosting.stub("shapes-light"), len(hosting.segments())
    hosting.host("shapes-heavy")
    hosting.wait_hosted("shapes-heavy")
    wait_for(lambda: not runs(gone), what="the model's process to end")
    assert len(hosting.segments()) < before
    assert [path.parent.name for path in hosting.directory.glob("worker/models/*/config.pbtxt")] == [
        model_of("shapes-heavy")
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_model_process_that_dies_or_hangs_is_replaced_and_the_other_one_stays(
    hosting: AgentProcess, number: signal.Signals
) -> None:
    victim, other = hosting.stub("shapes-light"), hosting.stub("shapes-heavy")
    os.kill(victim.pid, number)

    def mended() -> bool:
        stubs = [stub for stub in children(hosting.triton().pid) if stub.pid not in (victim.pid, other.pid)]
        return bool(stubs) and hosting.report()["hosts"][LIGHT]["state"] == "ready"

    wait_for(mended, what="another process for the model")
    assert hosting.draws("shapes-light")
    assert hosting.stub("shapes-heavy") == other


def test_a_model_process_that_dies_as_soon_as_it_begins_is_noticed(agent: AgentProcess) -> None:
    """Triton (2.51) would say for ever that it is loading the model, if the process dies early enough."""
    agent.host("shapes-light")
    agent.wait_hosted("shapes-light")
    agent.host(*BOTH)
    wait_for(lambda: len(children(agent.triton().pid)) == 2, what="a second process", every_s=0.001)
    for _ in range(20):
        with contextlib.suppress(psutil.NoSuchProcess, StopIteration):
            agent.stub("shapes-heavy").kill()
    agent.wait_hosted(*BOTH)
    assert all(agent.draws(variant) for variant in BOTH)


def test_a_triton_that_dies_comes_back_with_what_it_hosted_under_a_new_name(hosting: AgentProcess) -> None:
    before, server = hosting.report()["endpoint"], hosting.triton()
    stubs = children(server.pid)
    server.kill()
    wait_for(lambda: hosting.report()["endpoint"] not in (before, None), what="another server")
    hosting.wait_hosted(*BOTH)
    assert all(hosting.draws(variant) for variant in BOTH)
    wait_for(lambda: not any(map(runs, stubs)), what="the processes of the dead one to end")


def test_an_agent_that_is_killed_takes_its_triton_along_and_its_successor_remembers(hosting: AgentProcess) -> None:
    assert hosting.process is not None
    family = children(hosting.process.pid, recursive=True)
    hosting.process.kill()
    hosting.process.wait()
    wait_for(lambda: not any(map(runs, family)), what="all that it started to end")
    left = hosting.segments()
    hosting.start()
    hosting.wait_hosted(*BOTH)
    assert not [segment for segment in left if segment.exists()]
    assert hosting.draws("shapes-heavy")


def test_told_to_end_it_finishes_what_is_in_hand_and_leaves_nothing(hosting: AgentProcess) -> None:
    assert hosting.process is not None
    family = children(hosting.process.pid, recursive=True)
    hosting.process.send_signal(signal.SIGTERM)
    assert hosting.process.wait(PATIENCE_S) == 0
    wait_for(lambda: not any(map(runs, family)), what="all that it started to end")
    assert hosting.segments() == []
    assert list(hosting.sockets.iterdir()) == []


def test_weights_that_cannot_be_loaded_are_failed_by_message_and_the_others_serve(agent: AgentProcess) -> None:
    (light,) = host_entries("shapes-light")
    lost = {**light, "name": "lost", "model": {"source": "hf://tests/tiny", "revision": "0" * 40}}
    lost["discriminator"] = {"source": "file:///judge"}
    assert agent.ask("PUT", "/hosts", json={"variants": [light, lost]}).status_code == 200

    def told() -> bool:
        hosts = agent.report()["hosts"]
        states = {model == LIGHT: (host["state"], host["message"]) for model, host in hosts.items()}
        failed = states.get(False, ("", ""))
        return states.get(True) == ("ready", "") and failed[0] == "failed" and "diffusers is not installed" in failed[1]

    wait_for(told, what="one to be ready, and the other to be said to have failed")
    assert agent.draws("shapes-light")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"engine": "steam"}, "variants.0.engine"),
        ({"sizes": ["big"]}, "variants.0.sizes.0"),
        ({"sizes": ["32x32", "64x64"]}, "variants.0.sizes.1"),
        ({"batch": 0}, "variants.0.batch"),
        ({"settings": {"steps": "many"}}, "variants.0.settings.steps"),
        (
            {"model": {"source": "builtin://shapes", "revision": "0" * 64, "weights": "light"}},
            "variants.0.model.revision",
        ),
    ],
)
def test_a_list_that_cannot_be_hosted_changes_nothing_and_is_answered_with_the_field(
    hosting: AgentProcess, change: dict[str, object], field: str
) -> None:
    before = hosting.report()
    entries = host_entries("shapes-light")
    entries[0] |= change
    answer = hosting.ask("PUT", "/hosts", json={"variants": entries})
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert hosting.report() == before
    assert len(json.loads((hosting.directory / "worker" / "hosts.json").read_text())["variants"]) == 2


def test_what_is_no_request_is_refused_and_the_port_goes_on(agent: AgentProcess) -> None:
    assert agent.ask("PUT", "/hosts", content=b"{").status_code == 400
    assert agent.ask("PUT", "/hosts", content=b"x" * (1024 * 1024 + 1)).status_code == 413
    assert agent.ask("PUT", "/hosts", json={"variants": [], "more": 1}).json()["field"] == "more"
    assert agent.ask("DELETE", "/hosts").status_code == 405
    assert agent.ask("GET", "/else").status_code == 404
    assert agent.ask("GET", "/hosts?changed_since=x").status_code == 400
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(agent.socket))
        stranger.sendall(b"GET /" + b"x" * 100_000 + b"\r\n\r\n")
        assert b" 431 " in stranger.recv(200)
    assert agent.ask("GET", "/healthz").status_code == 200


def test_a_second_agent_in_the_same_folder_is_refused(agent: AgentProcess) -> None:
    folder = agent.directory / "worker"
    done = refused(f"--folder={folder}", f"--http-socket={folder}/other")
    assert f"--folder: {folder} is in use by another agent" in done


def refused(*options: str) -> str:
    """What an agent says that does not start."""
    command = [str(LAUNCHER), "agent", "--grpc-address=127.0.0.1:1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_port_of_the_network_needs_a_key(tmp_path: Path) -> None:
    listen = "--listen=127.0.0.1:1"
    assert "name a file with a --key-file" in refused(f"--folder={tmp_path}/w", listen)
    (tmp_path / "key").write_text("short")
    assert "the key has fewer than 32 characters" in refused(
        f"--folder={tmp_path}/w", listen, f"--key-file={tmp_path}/key"
    )


@pytest.fixture
def in_pod(tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent as on a cluster."""
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    network = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    found = AgentProcess(tmp_path, replica_id="agent-pod", network=network, options=[f"--key-file={key}"])
    try:
        yield found.start()
    finally:
        found.stop()


CONTROL: dict[str, Callable[[triton.InferenceServerClient], object]] = {
    "load": lambda client: client.load_model(LIGHT),
    "unload": lambda client: client.unload_model(LIGHT),
    "index": lambda client: client.get_model_repository_index(),
    "config": lambda client: client.get_model_config(LIGHT),
}


def test_on_the_network_only_the_key_is_heard_and_triton_hears_nobody(in_pod: AgentProcess) -> None:
    body = {"variants": host_entries("shapes-light")}

    def put(key: str) -> int:
        return in_pod.ask("PUT", "/hosts", json=body, headers={"Authorization": f"Bearer {key}"}).status_code

    assert [put("wrong"), put("x" * 40), put(KEY[:-1])] == [401, 401, 401]
    assert in_pod.ask("PUT", "/hosts", json=body).status_code == 401
    assert in_pod.ask("GET", "/hosts").status_code == 401
    assert put(KEY) == 200
    report = in_pod.ask("GET", "/hosts", headers={"Authorization": f"Bearer {KEY}"}).json()
    with triton.InferenceServerClient(report["endpoint"]) as client:
        wait_for(lambda: client.is_model_ready(LIGHT), what="the model")
        for call in CONTROL.values():
            with pytest.raises(InferenceServerException, match=RESTRICTED):
                call(client)
    assert in_pod.sockets.stat().st_mode & 0o077 == 0, "over this socket models can be loaded"
    for path in (f"/v2/models/{LIGHT}/config", "/v2/systemsharedmemory/status", "/v2/logging"):
        assert probe.request(str(in_pod.sockets / "http"), path, None, timeout_s=PATIENCE_S)[0] == 403
    assert in_pod.process is not None
    for process in (in_pod.process.pid, in_pod.triton().pid):
        for part in ("cmdline", "environ"):
            assert KEY.encode() not in Path(f"/proc/{process}/{part}").read_bytes()

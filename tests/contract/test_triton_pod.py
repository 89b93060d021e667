"""A worker as a pod runs it: told over the network what to host, proven by inference, leaving in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from support.agent import host_entries
from support.ports import free_port
from support.processes import children, runs
from support.triton import LAUNCHER, LIGHT, SHARED_MEMORY
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract


@dataclass
class PodLike:
    """The agent's process, and the probe beside it."""

    process: subprocess.Popen[bytes]
    http: Path
    grpc: str
    scratch: Path
    log: Path

    def probe(self, *, every_s: float = 0) -> subprocess.CompletedProcess[str]:
        command = [str(LAUNCHER), "probe", f"--model={LIGHT}", '--settings={"steps": 3}']
        command += [f"--socket={self.http}", f"--every={every_s}"]
        environment = {**os.environ, "TMPDIR": str(self.scratch)}
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)

    def well(self) -> bool:
        return self.probe().returncode == 0


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[PodLike]:
    key = tmp_path / "key"
    key.write_text("k" * 40)
    http = tmp_path / "triton" / "http"
    grpc = f"127.0.0.1:{free_port()}"
    listen = f"127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    command = [
        str(LAUNCHER),
        "agent",
        f"--listen={listen}",
        f"--key-file={key}",
        f"--folder={tmp_path / 'worker'}",
        f"--grpc-address={grpc}",
        f"--http-socket={http}",
        f"--metrics-address=127.0.0.1:{free_port()}",
        f"--replica-id=pod-{os.getpid()}",
        "--exit-timeout=10",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    found = PodLike(process, http, grpc, tmp_path, log)
    try:
        wait_for(lambda: tell(f"http://{listen}", key.read_text()), what=f"the agent to be told ({log.read_text()})")
        yield found
    finally:
        process.kill()
        process.wait()
        for segment in SHARED_MEMORY.glob(f"pod-{os.getpid()}.*"):
            segment.unlink(missing_ok=True)


def tell(agent: str, key: str) -> bool:
    """Tell the agent to host the light variant, as the operator does; False if it does not answer yet."""
    with contextlib.suppress(httpx.TransportError):
        body, headers = {"variants": host_entries("shapes-light")}, {"Authorization": f"Bearer {key}"}
        httpx.put(f"{agent}/hosts", json=body, headers=headers, trust_env=False).raise_for_status()
        return True
    return False


def test_only_its_own_model_is_rendered_and_it_draws(pod: PodLike, tmp_path: Path) -> None:
    wait_for(pod.well, what=f"the model to draw ({pod.log.read_text()[-500:]})", every_s=0.5)
    assert [folder.name for folder in (tmp_path / "worker" / "models").iterdir()] == [LIGHT]


def test_a_dead_model_process_is_replaced_and_the_container_goes_on(pod: PodLike) -> None:
    wait_for(pod.well, what="the model to draw", every_s=0.5)
    (server,) = children(pod.process.pid)
    (stub,) = children(server.pid)
    stub.kill()
    began = time.monotonic()
    wait_for(lambda: any(runs(new) and new != stub for new in children(server.pid)), what="another process")
    wait_for(pod.well, what="the model to draw again", every_s=0.1)
    print(f"\na model process killed: it draws again after {time.monotonic() - began:.1f} s")
    assert children(pod.process.pid) == [server]
    assert pod.process.poll() is None


def test_told_to_end_it_ends(pod: PodLike) -> None:
    wait_for(pod.well, what="the model to draw", every_s=0.5)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.process.wait(PATIENCE_S) is not None

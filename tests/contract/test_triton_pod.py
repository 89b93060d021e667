"""A replica as a pod runs it: rendered from the cascade's document, proven by inference, leaving in good order."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cascade_api.documents import load_cascades
from cascade_operator.manifests.documents import cascade_document
from support.ports import free_port
from support.processes import children
from support.triton import LAUNCHER, LIGHT, SHARED_MEMORY, shapes_manifest
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract


@dataclass
class PodLike:
    """The launcher's process, and the probe beside it."""

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
    file = load_cascades(shapes_manifest(), source="test")
    cascade = file.cascades[0]
    document = tmp_path / "cascade.json"
    document.write_text(cascade_document(cascade, file.profile_of(cascade), uid="u")["data"]["cascade.json"])
    http = tmp_path / "http"
    grpc = f"127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    command = [
        str(LAUNCHER),
        f"--cascade={document}",
        f"--model-repository={tmp_path / 'models'}",
        f"--load={LIGHT}",
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
        yield found
    finally:
        process.kill()
        process.wait()
        for segment in SHARED_MEMORY.glob(f"pod-{os.getpid()}.*"):
            segment.unlink(missing_ok=True)


def test_only_its_own_model_is_rendered_and_it_draws(pod: PodLike, tmp_path: Path) -> None:
    wait_for(pod.well, what=f"the model to draw ({pod.log.read_text()[-500:]})", every_s=0.5)
    assert [folder.name for folder in (tmp_path / "models").iterdir()] == [LIGHT]


def test_a_dead_stub_is_noticed_and_told(pod: PodLike) -> None:
    wait_for(pod.well, what="the model to draw", every_s=0.5)
    (stub,) = children(pod.process.pid)
    stub.kill()
    # A probe of a busy server may also say that it got no answer in time.
    said = f"cascade-triton probe: {LIGHT}: infer: 500"
    wait_for(lambda: (done := pod.probe()).returncode == 1 and said in done.stderr, what="a failing probe")
    assert pod.process.poll() is None, "the server itself goes on saying that all is well"


def test_told_to_end_it_ends(pod: PodLike) -> None:
    wait_for(pod.well, what="the model to draw", every_s=0.5)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.process.wait(PATIENCE_S) is not None


def test_weights_that_the_document_lacks_are_named(tmp_path: Path) -> None:
    document = tmp_path / "cascade.json"
    document.write_text(shapes_manifest())
    command = [str(LAUNCHER), f"--cascade={document}", f"--model-repository={tmp_path / 'm'}", "--load=nope"]
    done = subprocess.run(
        [*command, "--grpc-address=127.0.0.1:1"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert f"--load: {document} has no weights 'nope'; it has {LIGHT} (shapes-light), " in done.stderr

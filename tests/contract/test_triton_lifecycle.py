"""Starting, changing, mending and ending a server as a replica."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from cascade_models import manifest
from support.processes import runs
from support.triton import HEAVY, LIGHT, ONE_IMAGE, TritonServer, render, shapes_manifest
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract


def test_the_process_that_was_started_is_the_server(mortal_triton: TritonServer) -> None:
    assert mortal_triton.process is not None
    assert psutil.Process(mortal_triton.process.pid).name() == "tritonserver"


def test_a_pinned_server_keeps_itself_and_its_models_to_one_core(shapes_models: Path, tmp_path: Path) -> None:
    core = max(psutil.Process().cpu_affinity())
    server = TritonServer(shapes_models, tmp_path, load=("shapes-light",), replica_id="test-pinned")
    try:
        server.start("--core", str(core))
        assert server.process is not None
        assert psutil.Process(server.process.pid).cpu_affinity() == [core]
        assert server.stub("shapes-light").cpu_affinity() == [core]
    finally:
        server.stop()


def test_a_replica_changes_its_variant_in_place(mortal_triton: TritonServer) -> None:
    assert mortal_triton.process is not None
    mortal_triton.client.unload_model(LIGHT)
    mortal_triton.client.load_model(HEAVY)
    assert mortal_triton.ask("shapes-heavy", [ONE_IMAGE], seeds=[1]).as_numpy("image").shape == (1, 32, 32, 3)
    assert not mortal_triton.client.is_model_ready(LIGHT)
    assert mortal_triton.process.poll() is None


def test_a_killed_model_process_is_mended_by_loading_it_anew(mortal_triton: TritonServer) -> None:
    assert mortal_triton.process is not None
    stub = mortal_triton.stub("shapes-light")
    stub.kill()
    wait_for(lambda: not runs(stub), what="the model's process to end")
    with pytest.raises(InferenceServerException):
        mortal_triton.ask("shapes-light", [ONE_IMAGE], seeds=[1])
    mortal_triton.client.unload_model(LIGHT)
    mortal_triton.client.load_model(LIGHT)
    assert mortal_triton.ask("shapes-light", [ONE_IMAGE], seeds=[1]).as_numpy("image").shape == (1, 32, 32, 3)
    # The dead one is never accounted for: such a server takes all its time to end.
    mortal_triton.process.kill()


def test_a_server_that_ends_leaves_no_process_and_no_shared_memory(shapes_models: Path, tmp_path: Path) -> None:
    server = TritonServer(shapes_models, tmp_path, load=("shapes-light", "shapes-heavy"), replica_id="test-ends")
    try:
        server.start("--exit-timeout=60")
        stubs = server.stubs()
        assert server.process is not None
        assert len(stubs) == len(server.segments()) == 2
        server.process.terminate()
        server.process.wait(PATIENCE_S)
        wait_for(lambda: not any(map(runs, stubs)), what="the models' processes to end")
        assert server.segments() == []
    finally:
        server.stop()


def test_what_a_killed_server_left_is_swept_by_the_next_one(mortal_triton: TritonServer) -> None:
    assert mortal_triton.process is not None
    stubs, left = mortal_triton.stubs(), set(mortal_triton.segments())
    mortal_triton.process.kill()
    mortal_triton.process.wait()
    wait_for(lambda: not any(map(runs, stubs)), what="the models' processes to end")
    mortal_triton.start()
    assert not left & set(mortal_triton.segments())


def test_a_variant_whose_weights_have_changed_is_not_served(shapes_models: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    render(shapes_manifest(), models)
    config = models / LIGHT / "config.pbtxt"
    revision = next(v.revision for v in manifest.read_variants(shapes_manifest()))
    config.write_text(config.read_text().replace(revision, "0" * 64))
    server = TritonServer(models, tmp_path, replica_id="test-changed")
    try:
        server.start()
        with pytest.raises(InferenceServerException, match=f"the weights here are revision {revision}"):
            server.client.load_model(LIGHT)
    finally:
        server.stop()


def refusal(server: TritonServer, *options: str) -> str:
    """The one line with which the launcher refuses to start."""
    ended = subprocess.run(server.command(*options), capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("cascade-triton: ")
    assert len(ended.stderr.splitlines()) == 1
    return ended.stderr


def test_an_address_in_use_is_refused(shared_triton: TritonServer, shapes_models: Path, tmp_path: Path) -> None:
    server = TritonServer(shapes_models, tmp_path, network=True)
    with socket.create_server(("127.0.0.1", server.port)):
        assert f"--grpc-address: port {server.port} of 127.0.0.1 is in use" in refusal(server)
    said = refusal(server, "--grpc-address", shared_triton.endpoint)
    assert f"--grpc-address: {shared_triton.socket} is in use" in said
    assert shared_triton.ask("shapes-light", [ONE_IMAGE], seeds=[1]) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model-repository", "/nowhere"], "--model-repository: no folder /nowhere"),
        (["--load", "shapes-medium"], "--load: no model 'shapes-medium'"),
        (["--grpc-address", "8001"], "--grpc-address: '8001' is not HOST:PORT"),
        (["--grpc-address", "127.0.0.1:99999"], "--grpc-address: '127.0.0.1:99999' is not HOST:PORT"),
        (["--triton-env", "/nowhere"], "no Triton environment at /nowhere: run `cascade-triton setup`"),
        (["--core", "4096"], "--core: core 4096 is not available here"),
        (["--replica-id", "a/b"], "--replica-id: 'a/b' is not a name"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_what_to_do(
    shapes_models: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    assert said in refusal(TritonServer(shapes_models, tmp_path), *options)

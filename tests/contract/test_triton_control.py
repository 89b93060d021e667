"""Who may control a Triton: over the network nobody, over its Unix socket the user who started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from cascade_models import probe
from cascade_operator.local.triton import TritonClient, TritonError
from support.ports import listens_at
from support.processes import listening_ports
from support.triton import LIGHT, ONE_IMAGE, TritonServer
from support.waiting import PATIENCE_S, eventually, wait_for

pytestmark = pytest.mark.contract

NOBODY = 65534
CONFIG = '{"backend": "python", "max_batch_size": 0}'
RESTRICTED = "This protocol is restricted"


@pytest.fixture
def pod_triton(shapes_models: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A server on a port, as in a pod, with HTTP for its probe."""
    server = TritonServer(shapes_models, tmp_path, load=("shapes-light",), replica_id="test-pod", network=True)
    try:
        yield server.start("--http-socket", str(tmp_path / "http"))
    finally:
        server.stop()


def planted(path: Path) -> dict[str, bytes]:
    """The file of a model that leaves a mark when it is loaded."""
    code = f"open({str(path)!r}, 'w').close()\nclass TritonPythonModel:\n    def execute(self, requests): return []\n"
    return {"file:1/model.py": code.encode()}


def test_the_mark_of_a_planted_model_is_left_where_control_is_open(mortal_triton: TritonServer, tmp_path: Path) -> None:
    # Else the next test could not fail.
    mark = tmp_path / "mark"
    mortal_triton.client.load_model("planted", config=CONFIG, files=planted(mark))
    assert mark.exists()


def test_a_client_of_the_network_cannot_have_code_run(pod_triton: TritonServer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(InferenceServerException, match=RESTRICTED):
        pod_triton.client.load_model("planted", config=CONFIG, files=planted(mark))
    assert not mark.exists()
    assert not pod_triton.client.is_model_ready("planted")
    assert pod_triton.ask("shapes-light", [ONE_IMAGE], seeds=[1]).as_numpy("image").shape == (1, 32, 32, 3)


CONTROL: dict[str, Callable[[triton.InferenceServerClient], object]] = {
    "unload": lambda client: client.unload_model(LIGHT),
    "index": lambda client: client.get_model_repository_index(),
    "config": lambda client: client.get_model_config(LIGHT),
    "read shared memory": lambda client: client.get_system_shared_memory_status(),
    "register shared memory": lambda client: client.register_system_shared_memory("mine", "/mine", 64),
    "unregister shared memory": lambda client: client.unregister_system_shared_memory(),
    "read CUDA memory": lambda client: client.get_cuda_shared_memory_status(),
    "register CUDA memory": lambda client: client.register_cuda_shared_memory("mine", b"bWluZQ==", 0, 64),
    "read log settings": lambda client: client.get_log_settings(),
    "write log settings": lambda client: client.update_log_settings({"log_file": "/tmp/mine"}),  # noqa: S108
    "read trace settings": lambda client: client.get_trace_settings(),
    "write trace settings": lambda client: client.update_trace_settings(settings={"trace_file": "/tmp/mine"}),  # noqa: S108
}


@pytest.fixture(scope="module")
def locked_triton(shapes_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    directory = tmp_path_factory.mktemp("locked")
    server = TritonServer(shapes_models, directory, load=("shapes-light",), replica_id="test-locked", network=True)
    try:
        server.start("--http-socket", str(directory / "http"))
        wait_for(lambda: listens_at(directory / "http"), what="HTTP, which begins after gRPC")
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("name", CONTROL)
def test_what_nobody_needs_is_locked(locked_triton: TritonServer, name: str) -> None:
    with pytest.raises(InferenceServerException, match=RESTRICTED):
        CONTROL[name](locked_triton.client)


@pytest.mark.parametrize(
    "name", [name for name in CONTROL if "shared memory" in name or "CUDA" in name or "sett" in name]
)
def test_the_users_own_socket_has_no_shared_memory_either(shared_triton: TritonServer, name: str) -> None:
    with pytest.raises(InferenceServerException, match=RESTRICTED):
        CONTROL[name](shared_triton.client)


def test_the_command_line_gives_no_key_that_opens(locked_triton: TritonServer) -> None:
    assert locked_triton.process is not None
    words = Path(f"/proc/{locked_triton.process.pid}/cmdline").read_text().split("\0")
    (flag,) = (word for word in words if word.startswith("--grpc-restricted-protocol="))
    name, _, value = flag.rpartition(":")[2].partition("=")
    for header in (f"triton-grpc-protocol-{name}", f"triton-grpc-protocol-{name.lower()}"):
        # A header with capitals is refused by the client already, one without by the server.
        with pytest.raises(InferenceServerException):
            locked_triton.client.get_model_repository_index(headers={header: value})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", b"{}"),
        (f"/v2/repository/models/{LIGHT}/unload", b"{}"),
        ("/v2/repository/models/planted/load", b"{}"),
        (f"/v2/models/{LIGHT}/config", None),
        ("/v2/systemsharedmemory/status", None),
        ("/v2/logging", None),
        ("/v2/trace/setting", None),
    ],
)
def test_http_is_the_probes_alone_and_locked_too(locked_triton: TritonServer, path: str, body: bytes | None) -> None:
    file = locked_triton.log.parent / "http"
    status, answer = probe.request(str(file), path, body, timeout_s=PATIENCE_S)
    assert status == 403, answer


def test_a_server_of_a_pod_listens_on_one_port(locked_triton: TritonServer) -> None:
    assert locked_triton.process is not None
    assert listening_ports(locked_triton.process.pid) == {locked_triton.port}


async def test_a_refused_call_says_so_and_the_server_goes_on(locked_triton: TritonServer) -> None:
    client = TritonClient(locked_triton.endpoint)
    try:
        with pytest.raises(TritonError, match="locked"):
            await client.unload(LIGHT)
        assert await client.alive()
        await client.probe(LIGHT, {"steps": 2}, timeout_s=PATIENCE_S)

        async def counted() -> bool:
            return (await client.counts(LIGHT)).succeeded > 0

        # The server counts a request a moment after its answer has left.
        await eventually(counted, what="the image to be counted")
    finally:
        await client.close()


def test_another_user_of_the_machine_cannot_reach_a_server(mortal_triton: TritonServer) -> None:
    assert mortal_triton.socket.parent.stat().st_mode & 0o077 == 0
    assert connect(mortal_triton.socket) == "", "the user's own programs do reach it"
    if os.geteuid() == 0:
        # Only root can run a program as somebody else.
        ids = f"{NOBODY}, {NOBODY}, {NOBODY}"
        become = f"os.setgroups([]); os.setresgid({ids}); os.setresuid({ids})"
        assert "PermissionError" in connect(mortal_triton.socket, become=become)


def connect(file: Path, become: str = "") -> str:
    """What a program that connects to a Unix socket complains of."""
    program = f"import os, socket\n{become}\nsocket.socket(socket.AF_UNIX).connect({str(file)!r})"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o777])
def test_a_socket_in_a_folder_that_others_may_enter_is_refused(shapes_models: Path, tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    said = refused(shapes_models, tmp_path, f"unix:{folder}/triton:1")
    assert f"--grpc-address: {folder} must be a folder of your own that nobody else may enter" in said


def test_a_link_to_a_folder_is_refused(shapes_models: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert "must be a folder of your own" in refused(shapes_models, tmp_path, f"unix:{tmp_path / 'link'}/triton:1")


def test_a_path_that_is_too_long_for_a_socket_is_refused(shapes_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir(mode=0o700)
    assert "is longer than the 107 bytes" in refused(shapes_models, tmp_path, f"unix:{folder}/triton:1")


def test_the_sockets_of_a_server_that_was_killed_are_taken_over(mortal_triton: TritonServer, tmp_path: Path) -> None:
    http = tmp_path / "http"
    for _ in range(2):
        assert mortal_triton.process is not None
        mortal_triton.process.kill()
        mortal_triton.process.wait()
        assert mortal_triton.socket.exists()
        mortal_triton.start("--http-socket", str(http))
        assert mortal_triton.client.is_server_live()
        wait_for(lambda: listens_at(http), what="HTTP, which begins after gRPC")
        assert probe.request(str(http), "/v2/health/live", None, timeout_s=PATIENCE_S)[0] == 200


def test_a_file_that_is_no_socket_is_left_alone(shapes_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("mine")
    server = TritonServer(shapes_models, tmp_path)
    done = subprocess.run(
        server.command("--http-socket", str(file)), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert f"--http-socket: {file} is there, and is no socket" in done.stderr
    assert file.read_text() == "mine"


def refused(models: Path, directory: Path, endpoint: str) -> str:
    """The line with which the launcher refuses an address."""
    server = TritonServer(models, directory)
    done = subprocess.run(
        server.command("--grpc-address", endpoint), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    return done.stderr

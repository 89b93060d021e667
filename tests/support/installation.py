"""The product on a cluster: installed with Helm, with pods that the node agent runs, and a Redis of the test."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
import yaml

from cascade_api.names import CASCADE_INDEX

from .crd import PLURALS
from .helm import CHART, programs
from .kube import CLASS_LABEL, GPU, Cluster, is_ready
from .kube_api import Object
from .node_agent import NodeAgent
from .redis import RedisServer
from .router import EASY, Made, inputs_of
from .waiting import PATIENCE_S, wait_for

RELEASE = "dc"
CASCADES = "/apis/diffusioncascade.io/v1alpha1/namespaces/{namespace}/diffusioncascades"
DEFINED = "/apis/diffusioncascade.io/v1alpha1"
COMPONENT = "app.kubernetes.io/component"
CASCADE = Path(sys.executable).parent / "cascade"
TEST_GPU = {
    "name": "test-gpu",
    "resource": GPU,
    "nodeSelector": {CLASS_LABEL: "test-gpu"},
    "memoryMiB": 16000,
    "pricePerHour": "1.00",
}


class Installation:
    """A release of the chart, and what tests do with it.

    What counts is that a request is answered, however busy the machine: each has the longest deadline, ``longest_s``.
    """

    def __init__(
        self, cluster: Cluster, agent: NodeAgent, redis: RedisServer, namespace: str, *, longest_s: int = 120
    ) -> None:
        self.cluster = cluster
        self.agent = agent
        self.redis = redis
        self.namespace = namespace
        self.longest_s = longest_s
        self._clients: dict[str, triton.InferenceServerClient] = {}

    # Installing.

    def install(self, *options: str, **values: Any) -> None:
        """`helm install` with what this machine needs: servers on the pods' own addresses, Redis by address."""
        chosen = {
            "bindAddress": "$(POD_IP)",
            "redis": {"url": self.redis.url},
            "acceleratorClasses": [TEST_GPU],
            **values,
        }
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(chosen, file)
            file.flush()
            self.helm("install", RELEASE, str(CHART), "--values", file.name, *options)

    def uninstall(self) -> None:
        """Uninstall the release, if it exists, and remove everything that it runs."""
        for client in self._clients.values():
            client.close()
        self.helm("uninstall", RELEASE, "--ignore-not-found")
        self.cluster.empty(self.namespace)

    def helm(self, *arguments: str) -> str:
        program = next(iter(programs().values()), None)
        assert program, "no helm: run `make setup`, or name it in HELM"
        where = ["--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace]
        done = subprocess.run([program, *arguments, *where], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Its parts.

    def pods(self, component: str) -> list[Object]:
        """Pods of ``operator`` or ``router``."""
        return self.cluster.pods(self.namespace, **{COMPONENT: component})

    def wait_ready(self, component: str) -> list[Object]:
        """Its ready pods, once all that are wanted are, and no other is there."""
        deployments = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

        def look() -> list[Object]:
            (wanted,) = self.cluster.api.items(deployments, labelSelector=f"{COMPONENT}={component}")
            pods = self.pods(component)
            return pods if len(pods) == wanted["spec"]["replicas"] and all(map(is_ready, pods)) else []

        return self.expect(look, what=f"the {component} to be ready")

    def stop_routers(self) -> None:
        """Leave no router, where a test needs none and a hundred cascades would keep it busy."""
        (deployment,) = self.cluster.api.items(
            f"/apis/apps/v1/namespaces/{self.namespace}/deployments", labelSelector=f"{COMPONENT}=router"
        )
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{deployment['metadata']['name']}"
        changed = self.cluster.api.patch(path, {"spec": {"replicas": 0}})["metadata"]["generation"]
        self.expect(
            lambda: self.cluster.api.get(path)["status"].get("observedGeneration", 0) >= changed,
            what="the routers' Deployment to be scaled down",
        )

        def gone() -> bool:
            # Again and again: a ReplicaSet that has not heard yet makes another in place of one that went.
            for pod in self.pods("router"):
                name = pod["metadata"]["name"]
                self.cluster.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}", grace_s=0)
            return not self.pods("router")

        self.expect(gone, what="the routers to go")

    @property
    def account(self) -> str:
        """The operator's service account."""
        return str(self.pods("operator")[0]["spec"]["serviceAccountName"])

    def requests(self) -> list[Object]:
        """What the operator asked of the API server so far; only of the suite's own control plane."""
        assert self.cluster.plane is not None
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{self.account}"
        return self.cluster.plane.requests(self.cluster.api.get(path))

    @property
    def routers(self) -> list[str]:
        """The gRPC addresses of the routers, once all are ready."""
        return [f"{pod['status']['podIP']}:8001" for pod in self.wait_ready("router")]

    def expect(self, look: Callable[[], Any], *, what: str, within_s: float = PATIENCE_S) -> Any:
        """`wait_for`; if it fails, the error has the state of the cluster's pods and the logs of the product's."""
        try:
            return wait_for(look, within_s=within_s, what=what, every_s=0.1)
        except AssertionError as failure:
            pods = self.cluster.kubectl("get", "nodes,pods", "--all-namespaces", "--output", "wide", check=False)
            events = self.cluster.kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp", check=False)
            last = "\n".join(events.splitlines()[-30:])
            raise AssertionError(f"{failure}\n{pods}\n{last}\n{self.agent.logs(self.namespace)}") from None

    # Cascades.

    def apply(self, documents: str | Sequence[Object], *, namespace: str) -> None:
        text = documents if isinstance(documents, str) else yaml.safe_dump_all(documents)
        self.cluster.apply(text, namespace=namespace)

    def cascade(self, namespace: str, name: str = "shapes") -> Object:
        """The resource as the API server has it."""
        return self.cluster.api.get(f"{CASCADES.format(namespace=namespace)}/{name}")

    def condition(self, namespace: str, kind: str, name: str = "shapes") -> Object:
        """A condition of a cascade; {} while it has none of this kind."""
        return condition_of(self.cascade(namespace, name), kind)

    def wait_condition(
        self, namespace: str, kind: str, status: str = "True", *, name: str = "shapes", within_s: float = PATIENCE_S
    ) -> Object:
        """Waits until a condition of a cascade has this status for its present generation."""

        def look() -> Object | None:
            cascade = self.cascade(namespace, name)
            current = cascade["metadata"]["generation"]
            held = condition_of(cascade, kind)
            return held if held.get("status") == status and held.get("observedGeneration", current) == current else None

        return dict(self.expect(look, within_s=within_s, what=f"{namespace}/{name} to be {kind}={status}"))

    def wait_served(self, namespace: str, name: str = "shapes") -> None:
        """Waits until a cascade is ready, and every router has heard of it."""
        self.wait_condition(namespace, "Ready", name=name)
        for router in range(len(self.routers)):
            self.expect(
                lambda router=router: self.answers(model=f"{namespace}.{name}", router=router),
                what=f"an image of {namespace}/{name} through each router",
            )

    def remove_cascades(self, namespace: str) -> None:
        """Delete all cascades of a namespace and wait until nothing of them is left, in Redis either."""
        path = CASCADES.format(namespace=namespace)
        for cascade in self.cluster.api.items(path):
            self.cluster.api.delete(f"{path}/{cascade['metadata']['name']}")
        self.expect(lambda: not self.cluster.api.items(path), what="the cascades to be gone")
        self.expect(lambda: not self._kept(namespace), what="Redis to forget the cascades")

    def _kept(self, namespace: str) -> list[str]:
        """The keys of a namespace in Redis that do not expire."""
        with self.redis.client() as client:
            keys = [key for key in client.keys(f"cascade:{{{namespace}/*") if client.ttl(key) == -1]
            return keys + [ref for ref in client.smembers(CASCADE_INDEX) if ref.startswith(f"{namespace}/")]

    def deployments(self, namespace: str) -> dict[str, int]:
        """Pods that the pools' Deployments ask for, by pool."""
        found = self.cluster.api.items(f"/apis/apps/v1/namespaces/{namespace}/deployments")
        return {d["metadata"]["labels"]["diffusioncascade.io/pool"]: d["spec"]["replicas"] for d in found}

    def replicas(self, namespace: str, **labels: str) -> list[Object]:
        """The pods of pools."""
        wanted = {f"diffusioncascade.io/{name}": value for name, value in labels.items()}
        pods = self.cluster.pods(namespace, **wanted)
        return [pod for pod in pods if "diffusioncascade.io/pool" in (pod["metadata"].get("labels") or {})]

    def wait_pools(self, namespace: str, *, light: int, heavy: int) -> None:
        """Waits until exactly these workers are there, each told to host one variant, and all ready."""
        wanted = {"shapes-light": light, "shapes-heavy": heavy}

        def settled() -> bool:
            pods = self.replicas(namespace)
            return (
                Counter(map(variant_of, pods)) == wanted
                and all(map(is_ready, pods))
                and sum(self.deployments(namespace).values()) == light + heavy
            )

        self.expect(settled, within_s=2 * PATIENCE_S, what=f"pools of {wanted}")

    # Traffic.

    def ask(self, prompt: str = EASY, *, model: str = "shapes", router: int = 0, **options: Any) -> Made:
        """One image through a router, with an unmodified Triton client."""
        address = self.routers[router]
        if address not in self._clients:
            self._clients[address] = triton.InferenceServerClient(address)
        inputs, deadline = inputs_of(prompt, seed=1), {"deadline_ms": 1000 * self.longest_s}
        return Made(self._clients[address].infer(model, inputs, parameters=deadline, **options))

    def answers(self, *, model: str = "shapes", router: int = 0) -> bool:
        """Whether a router answers with an image; False where it refuses to, or is not there."""
        try:
            return bool(self.ask(model=model, router=router).image.any())
        except triton.InferenceServerException:
            return False

    @contextlib.contextmanager
    def load(self, *, rate: float, model: str = "shapes", router: int = 0) -> Iterator[Load]:
        """`cascade load` while the block runs, begun by then; its result is there afterwards."""
        where = ["--grpc", self.routers[router], "--cascade", model]
        what = ["--rate", str(rate), "--duration", "3600s", "--deadline", f"{self.longest_s}s"]
        command = [str(CASCADE), "load", "--json", *where, *what]
        with tempfile.NamedTemporaryFile() as log:
            load = Load(Path(log.name))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                begun = lambda: process.poll() is not None or load.answered > 0  # noqa: E731
                self.expect(begun, what="the load to begin")
                yield load
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=self.longest_s + PATIENCE_S)
                assert output, load.log.read_text()[-3000:]
                load.result |= json.loads(output)
            finally:
                process.kill()
                process.wait()


class Load:
    """A load that runs; ``result`` is filled when it has ended."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.result: dict[str, Any] = {}

    @property
    def answered(self) -> int:
        """Images so far, as of the last second."""
        counts = re.findall(r"answered (\d+)", self.log.read_text())
        return int(counts[-1]) if counts else 0

    @property
    def unfailed(self) -> bool:
        """Whether every request of an ended load got its image."""
        return (
            bool(self.result["sent"]) and self.result["answered"] == self.result["sent"] and not self.result["unsent"]
        )


def variant_of(pod: Object) -> str:
    """The variants that a worker's agent is told to host, separated by commas; empty if it was told nothing."""
    return str((pod["metadata"].get("annotations") or {}).get("diffusioncascade.io/variants", ""))


def condition_of(cascade: Object, kind: str) -> Object:
    """A condition of a cascade; {} where it has none of this kind."""
    conditions = (cascade.get("status") or {}).get("conditions") or []
    return next((dict(condition) for condition in conditions if condition["type"] == kind), {})


def defined(cluster: Cluster) -> bool:
    """Whether all kinds are served, and clients that use discovery find them."""
    kinds = (cluster.api.find(DEFINED) or {}).get("resources") or []
    found = {kind["name"] for kind in kinds}
    return found.issuperset(PLURALS) and all(cluster.api.find(f"{DEFINED}/{plural}") for plural in PLURALS)


@contextlib.contextmanager
def installed(cluster: Cluster, nodes: NodeAgent, home: str, directory: Path, **values: Any) -> Iterator[Installation]:
    """A release in the namespace ``home``, ready, and gone afterwards."""
    redis = RedisServer(directory)
    redis.start()
    installation = Installation(cluster, nodes, redis, home)
    try:
        installation.install(**values)
        installation.wait_ready("operator")
        installation.wait_ready("router")
        installation.expect(lambda: defined(cluster), what="the definitions to be served")
        yield installation
    finally:
        redis.kill()
        installation.uninstall()


@pytest.fixture(scope="session")
def home(control_plane: Cluster) -> Iterator[str]:
    """The namespace of every release; the definitions that one leaves belong to the next of its name and namespace."""
    name = control_plane.make_namespace("dc-system")
    yield name
    control_plane.remove_namespace(name)


@pytest.fixture(scope="module")
def installation(
    control_plane: Cluster, nodes: NodeAgent, home: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart with two routers and the class `test-gpu`, for the tests of a module."""
    with installed(control_plane, nodes, home, tmp_path_factory.mktemp("redis")) as installation:
        yield installation


@pytest.fixture
def tenant(installation: Installation) -> Iterator[str]:
    """A namespace for the cascades of one test."""
    name = installation.cluster.make_namespace()
    yield name
    try:
        installation.remove_cascades(name)
    finally:
        installation.cluster.remove_namespace(name)

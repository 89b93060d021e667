"""The chart on a real control plane: installed, upgraded from its first version, rolled back, uninstalled."""

from __future__ import annotations

import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from support.helm import CHART, programs, run
from support.installation import CASCADES, RELEASE, Installation, defined
from support.kube import Cluster, is_ready
from support.node_agent import NodeAgent
from support.redis import RedisServer
from support.router import EASY, inputs_of
from support.triton import shapes_manifest
from support.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.chart, pytest.mark.cluster]

FIRST = Path(__file__).parent / "fixtures" / "diffusion-cascade-0.1.0.tgz"
"""The first chart, without its definitions."""
SHAPES = shapes_manifest()
ROUTER = "dc-diffusion-cascade-router"
NEEDED = (
    ("watch", "diffusioncascades.diffusioncascade.io"), ("patch", "diffusioncascades.diffusioncascade.io/status"),
    ("list", "cascadeprofiles.diffusioncascade.io"), ("create", "deployments.apps"), ("delete", "deployments.apps"),
    ("create", "networkpolicies.networking.k8s.io"), ("delete", "networkpolicies.networking.k8s.io"),
    ("patch", "configmaps"), ("list", "pods"), ("patch", "pods"), ("delete", "pods"), ("create", "events"),
    ("create", "secrets"),
)  # fmt: skip
LONGEST_S = 40
"""The deadline of every request: what counts here is that a request is answered, however busy the machine."""
HELD = "/api/v1/namespaces/{}/secrets/dc-diffusion-cascade-redis"
"""Holds the password that was made at the first install."""


def deployment(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    return cluster.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")


@pytest.fixture
def swept(control_plane: Cluster, home: str) -> Iterator[str]:
    """The namespace of releases, without any after the test."""
    yield home
    helm_on(control_plane, home, "helm3")("uninstall", RELEASE, "--ignore-not-found")
    control_plane.empty(home)


@pytest.fixture
def first_chart(tmp_path: Path) -> Path:
    """The first chart with the definitions of today, and what today's operator needs to run at all.

    Definitions change before 1.0, and a chart with others is no upgrade.
    """
    with tarfile.open(FIRST) as packed:
        packed.extractall(tmp_path, filter="data")
    chart = tmp_path / CHART.name
    shutil.copytree(CHART / "files" / "crds", chart / "files" / "crds")
    for name in ("operator.yaml", "operator-rbac.yaml"):
        shutil.copy(CHART / "templates" / name, chart / "templates" / name)
    return chart


@pytest.mark.parametrize("program", ["helm3", pytest.param("helm4", marks=pytest.mark.slow)])
def test_install_upgrade_rollback_uninstall(
    control_plane: Cluster, swept: str, namespace: str, first_chart: Path, program: str
) -> None:
    """Definitions and cascades outlive the release; a password that was made at the first install stays."""
    home, helm = swept, helm_on(control_plane, swept, program)
    helm("install", RELEASE, first_chart)
    wait_for(lambda: defined(control_plane), what="the definitions to be served")
    control_plane.apply(shapes_in(namespace), namespace=namespace)
    password = control_plane.api.get(HELD.format(home))["data"]["password"]

    helm("upgrade", RELEASE, CHART, "--set", "router.replicas=3")
    assert deployment(control_plane, home, ROUTER)["spec"]["replicas"] == 3
    assert control_plane.api.get(HELD.format(home))["data"]["password"] == password

    helm("rollback", RELEASE, "1")
    assert deployment(control_plane, home, ROUTER)["spec"]["replicas"] == 2
    assert control_plane.api.get(HELD.format(home))["data"]["password"] == password

    helm("uninstall", RELEASE)
    deployments = f"/apis/apps/v1/namespaces/{home}/deployments"
    wait_for(lambda: not control_plane.api.items(deployments), what="the deployments to be gone")
    assert not control_plane.api.items(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles", labelSelector=f"app.kubernetes.io/instance={RELEASE}"
    )
    assert defined(control_plane), "the definitions are kept, and with them the cascades"
    assert control_plane.api.get(f"{CASCADES.format(namespace=namespace)}/shapes")["spec"]["policy"]["weight"] == 100
    assert "2s" in control_plane.kubectl("get", "dcas", "--namespace", namespace)


def test_the_operator_of_a_namespace_may_do_there_what_it_must_and_elsewhere_nothing(
    control_plane: Cluster, swept: str, namespace: str
) -> None:
    home, helm = swept, helm_on(control_plane, swept, "helm3")
    account = f"system:serviceaccount:{home}:dc-diffusion-cascade-operator"
    here, elsewhere, anywhere = ("-n", namespace), ("-n", home), ("--all-namespaces",)

    def may(verb: str, resource: str, where: tuple[str, ...]) -> bool:
        asked = ("auth", "can-i", verb, resource, "--as", account, *where)
        return control_plane.kubectl(*asked, check=False).startswith("yes")

    values = ("--set", f"watchNamespaces={{{namespace}}},rbac.inventory=false")
    helm("install", RELEASE, CHART, *values)
    for verb, resource in NEEDED:
        wait_for(lambda asked=(verb, resource): may(*asked, here), what=f"the right to {verb} {resource}")
        assert not may(verb, resource, elsewhere), f"{verb} {resource}"
    secrets = [(verb, "secrets") for verb in ("get", "list", "watch", "patch", "delete")]
    for verb, resource in (*secrets, ("create", "pods"), ("create", "roles.rbac.authorization.k8s.io")):
        assert not may(verb, resource, here), f"{verb} {resource}"
    assert not may("list", "nodes", anywhere)
    helm("upgrade", RELEASE, CHART, *values, "--set", "rbac.inventory=true")
    wait_for(lambda: may("list", "nodes", anywhere), what="the right to list Nodes")
    wait_for(lambda: may("list", "pods", elsewhere), what="the right to list pods")
    assert not may("delete", "pods", elsewhere)


@pytest.mark.slow
def test_upgrading_the_first_version_under_load_keeps_serving(
    control_plane: Cluster, nodes: NodeAgent, swept: str, namespace: str, first_chart: Path, tmp_path: Path
) -> None:
    """Router and operator are replaced while requests come in; the test pod of the chart makes an image, too."""
    redis = RedisServer(tmp_path)
    redis.start()
    home, helm = swept, helm_on(control_plane, swept, "helm3")
    release = Installation(control_plane, nodes, redis, home, longest_s=LONGEST_S)
    values = ("--set", f"bindAddress=$(POD_IP),redis.url={redis.url},router.longestGenerationSeconds={LONGEST_S}")
    try:
        helm("install", RELEASE, first_chart, *values)
        release.wait_ready("operator")
        release.wait_ready("router")
        release.expect(lambda: defined(control_plane), what="the definitions to be served")
        control_plane.apply(shapes_in(namespace), namespace=namespace)
        release.wait_served(namespace)
        before = names(control_plane, home)
        with traffic(release) as outcome:
            release.expect(lambda: outcome["answered"] > 5, what="traffic to flow")
            again = "router.podAnnotations.round=two,operator.podAnnotations.round=two"
            helm("upgrade", RELEASE, CHART, *values, "--set", again)
            release.expect(
                lambda: not names(control_plane, home) & before,
                within_s=4 * PATIENCE_S,
                what="every pod to be replaced",
            )
            release.wait_ready("operator")
            release.wait_ready("router")
            then = outcome["answered"]
            release.expect(lambda: outcome["answered"] > then + 5, what="traffic to flow on")
        assert outcome["failed"] == []
        helm("upgrade", RELEASE, CHART, "--reuse-values", "--set", f"test.address={release.routers[0]}")
        helm("test", RELEASE, "--timeout", "5m")
        release.remove_cascades(namespace)
    finally:
        redis.kill()


def shapes_in(namespace: str) -> str:
    """The example, whose profile names its namespace."""
    return SHAPES.replace("namespace: default", f"namespace: {namespace}")


def helm_on(cluster: Cluster, namespace: str, program: str) -> Callable[..., str]:
    """Helm on one namespace of a cluster; a command that fails fails the test."""
    where = ("--kubeconfig", cluster.kubeconfig, "--namespace", namespace)

    def helm(*arguments: str | Path) -> str:
        done = run(programs()[program], *arguments, *where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return helm


def names(cluster: Cluster, namespace: str) -> set[str]:
    """Names of the release's pods."""
    return {pod["metadata"]["name"] for pod in cluster.pods(namespace)}


@contextmanager
def traffic(release: Installation) -> Iterator[dict[str, Any]]:
    """A request at a time to a router that is ready and stays, as a Service would choose it; else to the last one."""
    outcome: dict[str, Any] = {"answered": 0, "failed": []}
    stop = threading.Event()

    def ask() -> None:
        address = ""
        while not stop.is_set():
            try:
                ready = (f"{p['status']['podIP']}:8001" for p in release.pods("router") if is_ready(p))
                address = next(ready, address)
                client = triton.InferenceServerClient(address)
                try:
                    client.infer("shapes", inputs_of(EASY, seed=1), parameters={"deadline_ms": LONGEST_S * 1000})
                finally:
                    client.close()
                outcome["answered"] += 1
            except Exception as error:  # what it is does not matter: nothing may fail
                outcome["failed"].append(f"{time.time():.1f} {address}: {error}")
            stop.wait(0.1)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcome
    finally:
        stop.set()
        thread.join()

"""Two releases, each with the rights on one namespace alone, and what a pod of one can do to the pods of the other.

Nothing enforces NetworkPolicies here: what refuses is the servers' own.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.crd import CRDS
from support.kube_api import Object
from support.kube_node import KubeNode, Release
from support.triton import LIGHT, shapes_manifest

pytestmark = pytest.mark.kube

SERVED = "team-a", "team-b"
CONTROL = [
    f"load_model('{LIGHT}')",
    f"unload_model('{LIGHT}')",
    "get_model_repository_index()",
    "register_system_shared_memory('mine', '/mine', 64)",
    "update_log_settings({'log_file': '/tmp/mine'})",
]
CASCADE = Path(sys.executable).parent / "cascade"


@pytest.fixture(scope="module")
def releases(kube_node: KubeNode) -> Iterator[list[Release]]:
    """One for each of SERVED, without a volume, with definitions that somebody else applied."""
    kube_node.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    kube_node.wait_defined()
    both = [Release(kube_node, f"{namespace}-serving") for namespace in SERVED]
    try:
        for release, namespace in zip(both, SERVED, strict=True):
            kube_node.make_namespace(namespace)
            release.install(
                crds={"enabled": False},
                watchNamespaces=[namespace],
                rbac={"inventory": False},
                acceleratorClasses=[{"name": "cpu", "resource": "cpu", "count": 2}],
                redis={"bundled": {"persistence": {"enabled": False}}},
            )
            release.serve(namespace, shapes_manifest())
        yield both
    finally:
        for release in both:
            release.uninstall()
        for namespace in SERVED:
            kube_node.remove_namespace(namespace)
        kube_node.kubectl("delete", "-f", str(CRDS))


def generate(release: Release, model: str, output: Path) -> str:
    """What `cascade generate` prints of an image from a release's routers."""
    command = [str(CASCADE), "generate", "a large red circle", "--cascade", model, "--output", str(output)]
    return release.node.run(*release.node.in_network, *command, "--grpc", f"{release.address()}:8001", check=False)


def test_each_serves_its_own(kube_node: KubeNode, releases: list[Release], tmp_path: Path) -> None:
    for release, namespace in zip(releases, SERVED, strict=True):
        for asked in SERVED:
            image = tmp_path / f"{namespace}-{asked}.png"
            generate(release, f"{asked}.shapes", image)
            assert image.exists() == (asked == namespace)
    rights = "clusterroles,clusterrolebindings"
    assert not kube_node.kubectl("get", rights, "--selector", "app.kubernetes.io/instance=dc", "--output", "name")


def test_the_doctor_finds_the_rights_in_order(releases: list[Release]) -> None:
    """As docs/operator.md has it run, with the operator's own rights and settings. The core is too old for it."""
    mine, _ = releases
    pod = mine.pods("operator")[0]["metadata"]["name"]
    command = ["exec", "--namespace", mine.namespace, pod, "--", "cascade", "doctor", "--cluster"]
    said = mine.node.kubectl(*command, check=False)
    assert "rights: nodes: cannot be read; classes with a count: cpu" in said
    assert "PROBLEM  rights" not in said


def test_what_a_pod_of_one_cannot_do_to_the_other(releases: list[Release]) -> None:
    """It reaches the port of a replica, where images are made but nothing is controlled, and Redis asks a password."""
    mine, other = releases
    redis = f"socket.create_connection(({other.address('redis')!r}, 6379))"
    asked = f"import socket; s = {redis}; s.sendall(b'KEYS *\\r\\n'); print(s.recv(99))"
    assert "NOAUTH" in in_router(mine, asked)

    replica = other.replicas(SERVED[1])[0]
    address = f"{replica['status']['podIP']}:{replica['spec']['containers'][0]['ports'][0]['containerPort']}"
    client = f"import tritonclient.grpc as t; client = t.InferenceServerClient({address!r})"
    assert "True" in in_router(mine, f"{client}; print(client.is_server_live())")
    for call in CONTROL:
        assert "This protocol is restricted" in in_router(mine, f"{client}; client.{call}"), call


def test_which_ports_another_pod_reaches(releases: list[Release]) -> None:
    """Those that a server of the pod listens on beside its own loopback, tried from a router of the other release."""
    mine, other = releases
    pods = {name: other.pods(name)[0] for name in ("operator", "router", "redis")}
    pods["replica"] = other.replicas(SERVED[1])[0]
    open_to_others = {name: listening(other, pod) for name, pod in pods.items()}
    assert open_to_others == {
        "operator": {8080},
        "router": {8000, 8001, 8002},
        "redis": {6379},
        "replica": {8001, 8002, 8003},
    }
    for name, pod in pods.items():
        for port in open_to_others[name]:
            ask = f"import socket; print(socket.create_connection(({pod['status']['podIP']!r}, {port})).getpeername())"
            assert str(port) in in_router(mine, ask)


def test_who_has_no_key_tells_an_agent_nothing(releases: list[Release]) -> None:
    mine, other = releases
    address = f"http://{other.replicas(SERVED[1])[0]['status']['podIP']}:8003"
    ask = "import urllib.request as u; print(u.urlopen(u.Request({!r}, method={!r}, headers={!r})).read().decode())"
    assert "ok" in in_router(mine, ask.format(f"{address}/healthz", "GET", {}))
    for method in ("GET", "PUT"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert "401" in in_router(mine, ask.format(f"{address}/hosts", method, headers))


def listening(release: Release, pod: Object) -> set[int]:
    """TCP ports of a pod on which a server listens, but for those of its loopback alone."""
    where = pod["metadata"]
    command = ["exec", "--namespace", where["namespace"], where["name"], "--", "sh", "-c", "cat /proc/net/tcp*"]
    rows = [line.split() for line in release.node.kubectl(*command).splitlines()]
    listens, loopback = "0A", "0100007F"
    found = [row[1].split(":") for row in rows if len(row) > 3 and row[3] == listens]
    return {int(port, 16) for address, port in found if address != loopback}


def test_what_another_pod_learns_of_the_operator(releases: list[Release]) -> None:
    """Its health and its metrics, without a password in them; and there is nothing to be told."""
    mine, other = releases
    address = f"http://{other.pods('operator')[0]['status']['podIP']}:8080"
    ask = "import urllib.request as u; print(u.urlopen(u.Request({!r}, method={!r})).read().decode())"
    assert "cascade_operator_" in in_router(mine, ask.format(f"{address}/metrics", "GET"))
    secret = f"/api/v1/namespaces/{other.namespace}/secrets/dc-diffusion-cascade-redis"
    password = base64.b64decode(other.node.api.get(secret)["data"]["password"]).decode()
    assert password
    assert password not in in_router(mine, ask.format(f"{address}/metrics", "GET"))
    assert "405" in in_router(mine, ask.format(f"{address}/metrics", "POST"))
    assert "404" in in_router(mine, ask.format(f"{address}/", "GET"))


def in_router(release: Release, code: str) -> str:
    """What a line of Python prints in a router's pod."""
    pod = release.pods("router")[0]["metadata"]["name"]
    command = ["exec", "--namespace", release.namespace, pod, "--", "python3", "-c", code]
    return release.node.kubectl(*command, check=False)

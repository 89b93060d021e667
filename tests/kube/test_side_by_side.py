"""Two releases, each with the rights on one namespace alone, and what a pod of one can do to the pods of the other.

Nothing enforces NetworkPolicies here: what refuses is the servers' own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.crd import CRDS
from support.kube_node import KubeNode, Release
from support.triton import shapes_manifest

pytestmark = pytest.mark.kube

SERVED = "team-a", "team-b"
CONTROL = [
    "load_model('shapes-light')",
    "unload_model('shapes-light')",
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
    return release.node.run(*release.node.in_network, *command, "--address", f"{release.address()}:8001", check=False)


def test_each_serves_its_own(kube_node: KubeNode, releases: list[Release], tmp_path: Path) -> None:
    for release, namespace in zip(releases, SERVED, strict=True):
        for asked in SERVED:
            image = tmp_path / f"{namespace}-{asked}.png"
            generate(release, f"{asked}.shapes", image)
            assert image.exists() == (asked == namespace)
    rights = "clusterroles,clusterrolebindings"
    assert not kube_node.kubectl("get", rights, "--selector", "app.kubernetes.io/instance=dc", "--output", "name")


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


def in_router(release: Release, code: str) -> str:
    """What a line of Python prints in a router's pod."""
    pod = release.pods("router")[0]["metadata"]["name"]
    command = ["exec", "--namespace", release.namespace, pod, "--", "python3", "-c", code]
    return release.node.kubectl(*command, check=False)

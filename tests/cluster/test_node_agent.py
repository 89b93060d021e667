"""The node agent by itself: plain Deployments of Triton come up, serve, heal and go, as on a machine of a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from support.kube import Cluster, is_ready
from support.kube_api import Object
from support.node_agent import NodeAgent
from support.processes import runs
from support.triton import LIGHT, ONE_IMAGE, inference, render, shapes_manifest
from support.waiting import wait_for

pytestmark = pytest.mark.cluster

TEMPLATE: Object = {
    "terminationGracePeriodSeconds": 20,
    "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}}],
    "containers": [
        {
            "name": "triton",
            "image": "registry.example/diffusion-cascade-triton:1.0",
            "command": ["cascade-triton", "--grpc-address=$(POD_IP):8001", "--replica-id=$(POD_NAME)"],
            "args": [f"--load={LIGHT}", "--model-repository=/models"],
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "securityContext": {"readOnlyRootFilesystem": True},
            "readinessProbe": {"tcpSocket": {"port": 8001}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
                {"name": "models", "mountPath": "/models", "readOnly": True},
                {"name": "settings", "mountPath": "/etc/cascade", "readOnly": True},
            ],
        }
    ],
}


def deployment(*, replicas: int, template: Object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "light"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "light"}},
            "template": {"metadata": {"labels": {"app": "light"}}, "spec": template},
        },
    }


class Deployed:
    """A Deployment of `shapes-light` in a namespace."""

    def __init__(self, cluster: Cluster, agent: NodeAgent, namespace: str, models: Path) -> None:
        self.cluster = cluster
        self.agent = agent
        self.namespace = namespace
        template = json.loads(json.dumps(TEMPLATE))
        template["volumes"].append({"name": "models", "hostPath": {"path": str(models)}})
        settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}}
        cluster.api.create(f"/api/v1/namespaces/{namespace}/configmaps", settings)
        body = deployment(replicas=2, template=template)
        cluster.api.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", body)

    def ready(self, number: int) -> list[Object]:
        """Waits until exactly this many pods are there and ready."""
        wait_for(lambda: self._ready(number), what=f"{number} ready pods")
        return self.pods

    @property
    def pods(self) -> list[Object]:
        return self.cluster.pods(self.namespace, app="light")

    def _ready(self, number: int) -> bool:
        pods = self.pods
        return len(pods) == number and all(map(is_ready, pods))


@pytest.fixture
def deployed(control_plane: Cluster, nodes: NodeAgent, namespace: str, tmp_path: Path) -> Deployed:
    models = tmp_path / "models"
    render(shapes_manifest(), models)
    return Deployed(control_plane, nodes, namespace, models)


def test_a_deployment_serves_heals_scales_and_goes(deployed: Deployed) -> None:
    pods = deployed.ready(2)
    addresses = {pod["status"]["podIP"] for pod in pods}
    assert len(addresses) == 2
    for address in addresses:
        with triton.InferenceServerClient(f"{address}:8001") as client:
            image = client.infer(LIGHT, **inference([ONE_IMAGE])).as_numpy("image")
            assert image.shape == (1, 32, 32, 3)

    name = pods[0]["metadata"]["name"]
    (container,) = deployed.agent.containers(deployed.namespace, name)
    processes = [container.command, *container.command.children(recursive=True)]
    assert len(processes) > 1, "a server and the stub of its model"
    container.kill()
    wait_for(lambda: not any(map(runs, processes)), what="the stub to go with its container")
    wait_for(lambda: _restarts(deployed, name) > 0, what="the restart to be reported")
    deployed.ready(2)

    path = f"/apis/apps/v1/namespaces/{deployed.namespace}/deployments/light"
    deployed.cluster.api.patch(path, {"spec": {"replicas": 0}})
    deployed.ready(0)


def test_a_pod_sees_its_volumes_and_cannot_write_elsewhere(deployed: Deployed) -> None:
    name = deployed.ready(2)[0]["metadata"]["name"]
    (container,) = deployed.agent.containers(deployed.namespace, name)
    inside = Path(f"/proc/{container.command.pid}/root")
    assert (inside / "etc/cascade/a").read_text() == "1"
    (inside / "tmp/new").write_text("scratch")
    for place in ("etc/cascade/a", "etc/new", "new", "usr/new"):
        with pytest.raises(OSError, match="Read-only"):
            (inside / place).write_text("")
    assert (inside / "proc/1/cmdline").read_text().split("\0")[0].endswith("tritonserver")


def _restarts(deployed: Deployed, name: str) -> Any:
    pod = deployed.cluster.api.get(f"/api/v1/namespaces/{deployed.namespace}/pods/{name}")
    return pod["status"]["containerStatuses"][0]["restartCount"]

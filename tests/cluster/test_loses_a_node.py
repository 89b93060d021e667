"""The replicas of a Node that is lost are placed elsewhere."""

from __future__ import annotations

import pytest

from support.installation import Installation, variant_of
from support.kube import CLASS_LABEL, GPU, is_ready
from support.kube_api import Object
from support.node_agent import Node
from support.patience import patient_documents, with_replicas
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.cluster


def documents() -> list[Object]:
    """A cascade with fixed numbers of replicas, three together, which is all that it may have."""
    made = patient_documents(
        light_ms=150,
        heavy_ms=450,
        accelerator_class="test-gpu",
        objective={"latency": "12s"},
    )
    return with_replicas(made, light=2, heavy=1)


@pytest.mark.slow
def test_the_pods_of_a_lost_node_are_placed_elsewhere(installation: Installation, tenant: str) -> None:
    agent, api = installation.agent, installation.cluster.api
    agent.add_node(Node("gpu-doomed", {"cpu": "2", GPU: "4"}, {CLASS_LABEL: "test-gpu"}))
    try:
        api.patch("/api/v1/nodes/gpu-1", {"spec": {"unschedulable": True}})
        installation.apply(documents(), namespace=tenant)
        installation.expect(lambda: _kept_off(installation, tenant, node="gpu-1") == 3, what="all on the doomed Node")
        installation.wait_pools(tenant, light=2, heavy=1)
        before = {pod["metadata"]["uid"] for pod in installation.replicas(tenant)}
        api.patch("/api/v1/nodes/gpu-1", {"spec": {"unschedulable": None}})
        agent.lose_node("gpu-doomed")

        def replaced() -> bool:
            new = [pod for pod in installation.replicas(tenant) if pod["metadata"]["uid"] not in before]
            return sorted(map(variant_of, new)) == ["shapes-heavy", "shapes-light", "shapes-light"] and all(
                map(is_ready, new)
            )

        installation.expect(replaced, within_s=4 * PATIENCE_S, what="the lost replicas to be placed anew")
        installation.expect(lambda: installation.answers(model=f"{tenant}.shapes"), what="an image")
    finally:
        api.patch("/api/v1/nodes/gpu-1", {"spec": {"unschedulable": None}})
        agent.remove_node("gpu-doomed")


def _kept_off(installation: Installation, namespace: str, *, node: str) -> int:
    """Pods that are on other Nodes. A scheduler that has not heard of a cordon yet, as after an outage, ignores it."""
    elsewhere = 0
    for pod in installation.replicas(namespace):
        if pod["spec"].get("nodeName") == node:
            path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
            installation.cluster.api.delete(path, grace_s=0, uid=pod["metadata"]["uid"])
        else:
            elsewhere += "nodeName" in pod["spec"]
    return elsewhere

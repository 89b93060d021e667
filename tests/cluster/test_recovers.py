"""What breaks is mended, and what is away is waited for; meanwhile the routers serve on by the last plan."""

from __future__ import annotations

import pytest

from support.installation import Installation, variant_of
from support.kube import CLASS_LABEL, GPU, is_ready
from support.kube_api import Object
from support.node_agent import Node
from support.patience import patient_documents, with_replicas
from support.processes import runs
from support.waiting import PATIENCE_S, throughout

pytestmark = pytest.mark.cluster
API_OUTAGE_S = 60


def documents(*, light: int = 2, heavy: int = 1, accelerator_class: str = "cpu") -> list[Object]:
    """A cascade with fixed numbers of replicas, three together, which is all that it may have."""
    made = patient_documents(
        light_ms=150,
        heavy_ms=450,
        accelerator_class=accelerator_class,
        objective={"latency": "12s"},
    )
    return with_replicas(made, light=light, heavy=heavy)


@pytest.fixture
def served(installation: Installation, tenant: str) -> str:
    """The namespace of a cascade that is served."""
    installation.apply(documents(), namespace=tenant)
    installation.wait_pools(tenant, light=2, heavy=1)
    installation.wait_served(tenant)
    return tenant


def test_an_operator_killed_in_the_middle_of_a_move_finishes_it(installation: Installation, served: str) -> None:
    with installation.load(rate=1, model=f"{served}.shapes") as result:
        installation.apply(documents(light=1, heavy=2), namespace=served)
        # No slot is free: one light replica goes first, and only then its heavy successor comes.
        installation.expect(lambda: installation.deployments(served)["shapes-light"] == 1, what="the move to begin")
        installation.kill("operator")
        installation.wait_pools(served, light=1, heavy=2)
        installation.wait_condition(served, "Ready")
    assert result.unfailed, result.result


def test_a_redis_that_lost_everything_gets_the_plan_again(installation: Installation, served: str) -> None:
    with installation.redis.client() as client:
        key = f"cascade:{{{served}/shapes}}:plan"
        before = client.get(key)
        assert before
    installation.redis.kill()
    try:
        assert installation.ask(model=f"{served}.shapes").image.any(), "the router goes on by what it knows"
    finally:
        installation.redis.start()
    with installation.redis.client() as client:
        installation.expect(lambda: client.get(key), what="the plan to be published anew")
    installation.expect(lambda: installation.answers(model=f"{served}.shapes"), what="an image")
    assert installation.deployments(served) == {"shapes-light": 2, "shapes-heavy": 1}


def test_a_replica_whose_stub_was_killed_is_noticed_and_replaced(installation: Installation, served: str) -> None:
    pod = installation.replicas(served, variant="shapes-heavy")[0]
    (container,) = installation.agent.containers(served, pod["metadata"]["name"])
    stub = next(p for p in container.command.children(recursive=True) if "python_backend_stub" in p.name())
    stub.kill()
    installation.expect(
        lambda: not _as_before(installation, served, pod),
        within_s=2 * PATIENCE_S,
        what="the dead model to be noticed",
    )
    installation.wait_pools(served, light=2, heavy=1)


@pytest.mark.slow
def test_an_api_server_that_is_away_for_a_minute_changes_nothing(installation: Installation, served: str) -> None:
    plane = installation.cluster.plane
    if plane is None:
        pytest.skip("the API server of KUBECONFIG is not ours to stop: use KUBEBUILDER_ASSETS")
    before = {pod["metadata"]["uid"] for pod in installation.replicas(served)}
    restarts = _restarts(installation, "operator")
    routers = installation.routers
    try:
        with installation.load(rate=1, model=f"{served}.shapes") as result:
            running = [container.command for container in installation.agent.containers(served)]
            with plane.without_api_server():
                throughout(lambda: all(map(runs, running)), for_s=API_OUTAGE_S, what="nothing is torn down")
            assert {pod["metadata"]["uid"] for pod in installation.replicas(served)} == before
            installation.apply(documents(light=1, heavy=2), namespace=served)
            installation.wait_pools(served, light=1, heavy=2)
        assert result.unfailed, result.result
        assert installation.routers == routers
        assert _restarts(installation, "operator") == restarts, "the operator waited"
    finally:
        plane.restart_controllers()


@pytest.mark.slow
def test_the_pods_of_a_lost_node_are_placed_elsewhere(installation: Installation, tenant: str) -> None:
    agent, api = installation.agent, installation.cluster.api
    agent.add_node(Node("gpu-doomed", {"cpu": "2", GPU: "4"}, {CLASS_LABEL: "test-gpu"}))
    try:
        api.patch("/api/v1/nodes/gpu-1", {"spec": {"unschedulable": True}})
        installation.apply(documents(accelerator_class="test-gpu"), namespace=tenant)
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


def _as_before(installation: Installation, namespace: str, pod: Object) -> bool:
    """Whether a pod is there, ready, and none of its containers was restarted since it was read."""
    present = [p for p in installation.replicas(namespace) if p["metadata"]["uid"] == pod["metadata"]["uid"]]
    return any(is_ready(p) and _restarted(p) == _restarted(pod) for p in present)


def _restarts(installation: Installation, component: str) -> int:
    return sum(map(_restarted, installation.pods(component)))


def _restarted(pod: Object) -> int:
    return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])

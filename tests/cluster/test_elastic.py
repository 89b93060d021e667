"""Accelerators on Nodes that do not exist yet: they come for pods that wait, go when nobody uses them, and if none
comes, other classes are used."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from support.autoscaler import Autoscaler
from support.installation import Installation, installed
from support.kube import CLASS_LABEL, GPU, Cluster, is_ready
from support.kube_api import Object
from support.node_agent import NodeAgent
from support.patience import patient_documents
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.cluster

CLASS, NEVER = "elastic", "never"
"""A class whose Nodes come, and one whose Nodes never do."""


def elastic(name: str, *, provision_s: int) -> dict[str, Any]:
    return {
        "name": name,
        "resource": GPU,
        "nodeSelector": {CLASS_LABEL: name},
        "pricePerHour": "1.00",
        "elastic": {"max": 3, "provisionSeconds": provision_s},
    }


CLASSES = [
    elastic(CLASS, provision_s=60),
    elastic(NEVER, provision_s=5),
    # So dear that it is only used where there is no other way.
    {"name": "cpu", "resource": "cpu", "pricePerHour": "10.00"},
]


@pytest.fixture(scope="module")
def installation(
    control_plane: Cluster, nodes: NodeAgent, home: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    values: dict[str, Any] = {"acceleratorClasses": CLASSES}
    with installed(control_plane, nodes, home, tmp_path_factory.mktemp("redis"), **values) as made:
        yield made


@pytest.fixture
def autoscaler(installation: Installation) -> Iterator[Autoscaler]:
    """An autoscaler that still runs when the cascades of the test are removed."""
    with Autoscaler(installation.cluster.api, installation.agent, CLASS).running() as running:
        yield running


def documents(*, low: int, workers: int, on: str = CLASS, **spec: Any) -> list[Object]:
    """A cascade on shared workers, ``low`` to ``workers`` of them."""
    made = patient_documents(
        light_ms=150, heavy_ms=600, accelerator_class=on, workers=workers, objective={"latency": "12s"}, **spec
    )
    for document in made:
        if document["kind"] == "DiffusionCascade":
            document["spec"]["workers"][0] |= {"hosting": "shared", "min": low}
    return made


def test_nodes_come_for_a_cascade_and_go_when_nobody_asks(
    installation: Installation, autoscaler: Autoscaler, tenant: str
) -> None:
    installation.apply(documents(low=0, workers=1, policy={"scaleToZeroAfter": "8s"}), namespace=tenant)
    model = f"{tenant}.shapes"
    assert installation.expect(lambda: installation.answers(model=model), what="an image", within_s=2 * PATIENCE_S)
    assert autoscaler.made == 1
    (pod,) = installation.replicas(tenant)
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    installation.expect(lambda: not autoscaler.there, what="the Node to go", within_s=2 * PATIENCE_S)
    assert installation.condition(tenant, "Ready")["reason"] == "Parked"
    assert installation.ask(model=model).image.any(), "another Node comes"
    assert autoscaler.made == 2


def test_a_worker_leaves_a_node_that_is_going_and_loses_nothing(
    installation: Installation, autoscaler: Autoscaler, tenant: str
) -> None:
    installation.apply(documents(low=2, workers=2), namespace=tenant)
    installation.expect(lambda: _ready(installation, tenant) == 2, what="two workers", within_s=2 * PATIENCE_S)
    installation.wait_served(tenant)
    with installation.load(rate=2, model=f"{tenant}.shapes") as load:
        leaving = installation.replicas(tenant)[0]
        node, uid = leaving["spec"]["nodeName"], leaving["metadata"]["uid"]
        autoscaler.taint(node, "karpenter.sh/disrupted")

        def left() -> bool:
            pods = installation.replicas(tenant)
            return uid not in {pod["metadata"]["uid"] for pod in pods} and _ready(installation, tenant) == 2

        installation.expect(left, what="a worker elsewhere", within_s=2 * PATIENCE_S)
        assert node not in {pod["spec"]["nodeName"] for pod in installation.replicas(tenant)}
        answered = load.answered
        installation.expect(lambda: load.answered > answered + 5, what="more images")
    assert load.unfailed, load.result


def test_while_no_node_comes_another_class_is_used_and_people_are_told(installation: Installation, tenant: str) -> None:
    made = documents(low=0, workers=2, on=NEVER)
    for document in made:
        spec = document["spec"]
        if document["kind"] == "DiffusionCascade":
            spec["workers"] = [{"name": "cheap", "class": NEVER, "max": 2}, {"name": "dear", "class": "cpu", "max": 2}]
        else:
            for rows in ("execution", "discriminator", "startup"):
                spec[rows] += [copy.deepcopy(row) | {"class": "cpu"} for row in spec[rows]]
    installation.apply(made, namespace=tenant)
    installation.expect(lambda: _ready(installation, tenant) == 2, what="two slots", within_s=3 * PATIENCE_S)
    installation.wait_served(tenant)
    assert {pod["metadata"]["labels"]["diffusioncascade.io/class"] for pod in installation.replicas(tenant)} == {"cpu"}
    events = installation.cluster.api.items(f"/api/v1/namespaces/{tenant}/events")
    told = [event["message"] for event in events if event["involvedObject"]["kind"] == "DiffusionCascade"]
    assert any("no Node had room for it within 10 s" in message for message in told), told


def _ready(installation: Installation, tenant: str) -> int:
    return sum(map(is_ready, installation.replicas(tenant)))

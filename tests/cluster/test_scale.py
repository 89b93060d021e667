"""A hundred cascades of four variants on one operator: changes take effect, rest is silent, memory is bounded."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from support.installation import CASCADES, Installation, installed
from support.kube import Cluster, is_ready
from support.kube_api import Follower, Object
from support.node_agent import Node, NodeAgent
from support.patience import patient_documents

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NUMBER = 100
VARIANTS = ("shapes-light", "shapes-heavy", "shapes-more", "shapes-most")
SAMPLES = 20
REST_S = 30
LONGEST_S = 900.0
"""How long a machine with little time for this may take for what takes one or two minutes."""
MOST_MEMORY = 1 << 30
"""The chart's limit for the operator."""
RESOURCE = "test.diffusioncascade.io/marked"
LABEL = "test.diffusioncascade.io/marked"
CLASS = {"name": "marked", "resource": RESOURCE, "nodeSelector": {LABEL: "yes"}, "pricePerHour": "1.00"}


def documents() -> list[Object]:
    """A profile of four variants, and a hundred cascades with one worker for each."""
    cascade, profile = sorted(
        patient_documents(
            light_ms=150,
            heavy_ms=600,
            accelerator_class="marked",
            objective={"latency": "12s"},
            workers=8,
        ),
        key=lambda document: document["kind"] != "DiffusionCascade",
    )
    heavy = cascade["spec"]["variants"][-1]
    for steps, name in enumerate(VARIANTS[2:], 30):
        cascade["spec"]["variants"].append({**heavy, "name": name, "settings": {"steps": steps}})
        for rows in ("execution", "startup"):
            like = [row for row in profile["spec"][rows] if row["variant"] == heavy["name"]]
            profile["spec"][rows] += [{**row, "variant": name} for row in like]
    for variant in cascade["spec"]["variants"]:
        variant["minHosts"] = 1
    cascades = []
    for number in range(NUMBER):
        cascades.append(copy.deepcopy(cascade))
        cascades[-1]["metadata"]["name"] = f"cascade-{number:03}"
    return [profile, *cascades]


@dataclass
class Watched:
    """When each Deployment was first seen to want a number of replicas."""

    seen: dict[tuple[str, int], float] = field(default_factory=dict)

    def take(self, kind: str, item: Object) -> None:
        labels = item["metadata"]["labels"]
        key = (labels["diffusioncascade.io/cascade"], item["spec"]["replicas"])
        self.seen.setdefault(key, time.monotonic())


@pytest.fixture(scope="module")
def crowded(
    control_plane: Cluster, nodes: NodeAgent, home: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Installation, str]]:
    """An operator with a hundred cascades, all pods of which are said to be ready; no router."""
    if control_plane.plane is None:
        pytest.skip("counting requests takes an audit log: use KUBEBUILDER_ASSETS")
    values: dict[str, Any] = {"acceleratorClasses": [CLASS]}
    nodes.add_node(Node("marked-1", {"cpu": "4", RESOURCE: "2000"}, {LABEL: "yes"}, processes=False))
    try:
        with installed(control_plane, nodes, home, tmp_path_factory.mktemp("redis"), **values) as installation:
            installation.stop_routers()
            namespace = control_plane.make_namespace()
            try:
                installation.apply(yaml.dump_all(documents(), Dumper=yaml.CSafeDumper), namespace=namespace)
                yield installation, namespace
            finally:
                control_plane.remove_namespace(namespace)
    finally:
        nodes.remove_node("marked-1")


def test_a_hundred_cascades_take_changes_and_rest_silently(crowded: tuple[Installation, str]) -> None:
    installation, namespace = crowded
    begun = time.monotonic()
    installation.expect(
        lambda: sum(map(is_ready, installation.replicas(namespace))) == NUMBER * len(VARIANTS),
        within_s=LONGEST_S,
        what="all replicas",
    )
    print(f"\n{NUMBER} cascades with {len(VARIANTS)} workers each came up in {time.monotonic() - begun:.0f} s")
    _wait_for_rest(installation)
    print(f"no write in {REST_S} s of rest; {len(installation.requests())} requests in all")

    watched = Watched()
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    follower = Follower(
        installation.cluster.api,
        path,
        listed=lambda items: [watched.take("ADDED", item) for item in items] and None,
        changed=watched.take,
    )
    follower.start()
    try:
        took = [_change(installation, namespace, watched, f"cascade-{number:03}") for number in range(SAMPLES)]
    finally:
        follower.stop()
    p95, memory = statistics.quantiles(took, n=20)[-1], _memory(installation)
    print(f"spec to Deployment: p50 {statistics.median(took):.2f} s, p95 {p95:.2f} s; operator: {memory >> 20} MiB")
    assert memory < MOST_MEMORY


def _change(installation: Installation, namespace: str, watched: Watched, name: str) -> float:
    """Seconds from a spec that asks for one light replica more to the Deployment that does."""
    path = f"{CASCADES.format(namespace=namespace)}/{name}"
    variants = installation.cluster.api.get(path)["spec"]["variants"]
    variants[0]["minHosts"] = 2
    begun = time.monotonic()
    installation.cluster.api.patch(path, {"spec": {"variants": variants}})
    key = (name, len(VARIANTS) + 1)
    installation.expect(lambda: key in watched.seen, what=f"the Deployment of {name} to follow")
    return watched.seen[key] - begun


def _writes(installation: Installation) -> int:
    """Requests of the operator so far that change something."""
    reading = ("get", "list", "watch")
    return sum(entry["verb"] not in reading for entry in installation.requests())


def _wait_for_rest(installation: Installation) -> None:
    """Until REST_S seconds, many ticks, went by without a write."""
    last, since = _writes(installation), time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        now = _writes(installation)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > REST_S

    installation.expect(rests, within_s=LONGEST_S, what="writes to end")


def _memory(installation: Installation) -> int:
    """Resident bytes of the operator."""
    (container,) = installation.agent.containers(
        installation.namespace, installation.pods("operator")[0]["metadata"]["name"]
    )
    return int(container.command.memory_info().rss)

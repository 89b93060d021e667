"""The driver on a real API server: moves become numbers in Deployments, where a successor finds them."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import yaml

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason
from cascade_api.settings import OperatorSettings
from cascade_api.workers import WorkerPool
from cascade_operator.clusters.kubernetes.api import KubernetesApi, connect
from cascade_operator.clusters.kubernetes.driver import KubernetesCluster
from cascade_operator.clusters.kubernetes.mirror import Mirror
from cascade_operator.snapshot import (
    DrainWorker,
    HostState,
    Load,
    Move,
    PoolRef,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)
from cascade_operator.sources import PoolSubject, Subject
from support.crd import PLURALS
from support.factories import make_cascade, make_profile, weights_of
from support.installation import defined
from support.kube import ROOT, Cluster
from support.kube_api import Object
from support.node_agent import Node, NodeAgent
from support.waiting import eventually, wait_for

pytestmark = pytest.mark.cluster
NODE = "driver-1"
SLOTS = 4
OWN_SECRET = "s" * 43
POLICY: Object = {
    "policyTypes": ["Ingress", "Egress"],
    "ingress": [{"ports": [{"port": 8001, "protocol": "TCP"}], "from": [{"podSelector": {"matchLabels": {"r": "1"}}}]}],
}
"""What the chart tells the operator of its workers' NetworkPolicy."""


@pytest.fixture(scope="module")
def definitions(control_plane: Cluster) -> Iterator[None]:
    """The product's resource definitions; a chart that comes later finds none that it does not own."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    ours = [
        str(ROOT / "crds" / f"{name}.yaml")
        for name in PLURALS
        if control_plane.api.find(f"{definitions}/{name}.diffusioncascade.io") is None
    ]
    for file in ours:
        # An old kubectl does not know the rules.
        control_plane.kubectl("apply", "--validate=false", "-f", file)
    wait_for(lambda: defined(control_plane), what="the definitions to be served")
    yield
    for file in ours:
        control_plane.kubectl("delete", "-f", file)


@pytest.fixture(scope="module")
def node(node_agent: NodeAgent) -> Iterator[None]:
    """A Node whose pods are ready at once, with nothing behind them."""
    node_agent.add_node(Node(NODE, {"cpu": str(SLOTS)}, {"driver": "yes"}, processes=False))
    yield
    node_agent.remove_node(NODE)


class World:
    """A driver, and the cascade that it drives."""

    def __init__(self, cluster: Cluster, namespace: str, policy: Object | None) -> None:
        self.cluster = cluster
        self.requests: Counter[str] = Counter()
        self.notices: list[tuple[Reason, str]] = []
        self.now: float | None = None
        """The driver's clock, where a test has stopped it."""
        settings = OperatorSettings.model_validate(
            {
                "accelerator_classes": [{"name": "cpu", "resource": "cpu", "nodeSelector": {"driver": "yes"}}],
                "runtime_image": "diffusion-cascade/runtime:test",
                "worker_network_policy": policy,
            }
        )
        client = connect(timeout_s=120, kubeconfig=str(cluster.kubeconfig))
        self.api = KubernetesApi(client, timeout_s=120, count=self._count)
        self.mirror = Mirror(self.api, namespaces=[namespace], changed=lambda: None)
        self.driver = KubernetesCluster(
            self.api,
            self.mirror,
            settings=settings,
            notice=lambda ref, reason, text: self.notices.append((reason, text)),
            changed=lambda: None,
            clock=lambda: time.time() if self.now is None else self.now,
        )
        self.driver.keys.secret = OWN_SECRET
        self.ref = CascadeRef(namespace, "shapes")
        self.pools: list[PoolSubject] = []
        self.subject = self._subject()

    @property
    def subjects(self) -> list[Subject]:
        return [self.subject]

    def _count(self, method: str, kind: str, outcome: str) -> None:
        if method != "get":
            self.requests[kind] += 1

    def _subject(self, **overrides: Any) -> Subject:
        cascade = make_cascade(workers={"cpu": SLOTS}, **overrides)
        metadata = cascade.metadata.model_copy(update={"namespace": self.ref.namespace})
        placed = cascade.model_copy(update={"metadata": metadata})
        return Subject(placed, make_profile(), uid=self._uid("diffusioncascades", placed.wire()))

    def _uid(self, plural: str, resource: Object) -> str:
        """The uid of a resource, which is made if it is not there."""
        path = f"/apis/diffusioncascade.io/v1alpha1/namespaces/{self.ref.namespace}/{plural}"
        name = resource["metadata"]["name"]
        there = self.cluster.api.find(f"{path}/{name}")
        if there is None:
            self.cluster.apply(yaml.safe_dump(json.loads(json.dumps(resource))), namespace=self.ref.namespace)
            there = self.cluster.api.get(f"{path}/{name}")
        uid: str = there["metadata"]["uid"]
        return uid

    async def begin(self) -> None:
        await self.mirror.begin()
        await self.driver.reconcile(self.subjects, self.pools)

    async def change(self, **overrides: Any) -> None:
        """The spec says something else now."""
        self.subject = self._subject(**overrides)
        await self.driver.reconcile(self.subjects, self.pools)

    async def workers(self, **wanted: int) -> list[Worker]:
        """The workers, once so many are in these states (``ready=2``) and no others are there."""

        async def look() -> list[Worker]:
            found = await self._turn()
            return found if Counter(worker.state.value for worker in found) == Counter(wanted) else []

        return await eventually(look, what=f"workers {wanted}") if wanted else []

    async def hosting(self, *variants: str) -> list[Worker]:
        """The workers, once all of them are ready and host exactly these weights, each a digest or of that variant."""
        wanted = set(weights_of(*variants))

        async def look() -> list[Worker]:
            found = await self._turn()
            ready = [worker for worker in found if worker.state is WorkerState.READY]
            hosts = [set(w.hosting(*HostState)) == set(w.hosting(HostState.READY)) == wanted for w in ready]
            return found if ready == found and all(hosts) else []

        return await eventually(look, what=f"workers that host {variants}")

    async def _turn(self) -> list[Worker]:
        """What the operator's loop does before it decides."""
        await self.mirror.compare()
        await self.driver.reconcile(self.subjects, self.pools)
        return list(await self.driver.workers())

    async def act(self, *moves: Move) -> None:
        await self.driver.act(self.pool, moves)

    async def counts(self, slots: int) -> bool:
        """Whether there are so many accelerators."""
        await self.mirror.compare()
        return await self.driver.inventory() == {"cpu": slots}

    @property
    def pool(self) -> PoolRef:
        return PoolRef(self.ref.namespace, "cpu", self.ref.name)

    def start(self, variant: str) -> StartWorker:
        return StartWorker(self.pool, "cpu", weights_of(variant))

    def pods(self) -> list[Object]:
        return self.cluster.pods(self.ref.namespace)

    def policies(self) -> list[Object]:
        return self.cluster.api.items(f"/apis/networking.k8s.io/v1/namespaces/{self.ref.namespace}/networkpolicies")

    def deployments(self) -> list[Object]:
        return self.cluster.api.items(f"/apis/apps/v1/namespaces/{self.ref.namespace}/deployments")


class SharedWorld(World):
    """A driver, and two cascades on one WorkerPool: ``shapes`` of the light variant, ``bert`` of the heavy one."""

    def __init__(self, cluster: Cluster, namespace: str, policy: Object | None) -> None:
        self.shared = WorkerPool.model_validate(
            {"metadata": {"name": "slots", "namespace": namespace}, "spec": {"class": "cpu", "workers": {"max": SLOTS}}}
        )
        super().__init__(cluster, namespace, policy)
        uid = self._uid("workerpools", self.shared.wire())
        self.pools = [PoolSubject(self.shared, uid=uid)]
        self.others = {"shapes": self.subject, "bert": self._on_pool("bert")}

    @property
    def subjects(self) -> list[Subject]:
        return list(self.others.values())

    @property
    def pool(self) -> PoolRef:
        return PoolRef(self.ref.namespace, "slots")

    def _subject(self, **overrides: Any) -> Subject:
        return self._on_pool("shapes")

    def _on_pool(self, name: str) -> Subject:
        variant = make_cascade().spec.variant("light" if name == "shapes" else "heavy")
        cascade = make_cascade(name, workers=[{"pool": "slots", "max": 2}], variants=[variant.wire()])
        metadata = cascade.metadata.model_copy(update={"namespace": self.ref.namespace})
        written = cascade.model_copy(update={"metadata": metadata})
        uid = self._uid("diffusioncascades", written.wire())
        placed = written.model_copy(update={"spec": written.spec.on_pools({"slots": self.shared.spec})})
        return Subject(placed, make_profile(), uid=uid)


@asynccontextmanager
async def driving(
    cluster: Cluster, namespace: str, policy: Object | None = POLICY, *, shared: bool = False
) -> AsyncIterator[World]:
    world = (SharedWorld if shared else World)(cluster, namespace, policy)
    try:
        await world.begin()
        yield world
    finally:
        await world.driver.close()


@pytest.fixture
async def world(definitions: None, node: None, control_plane: Cluster, namespace: str) -> AsyncIterator[World]:
    async with driving(control_plane, namespace) as world:
        yield world


@pytest.fixture
async def shared(definitions: None, node: None, control_plane: Cluster, namespace: str) -> AsyncIterator[SharedWorld]:
    async with driving(control_plane, namespace, shared=True) as world:
        assert isinstance(world, SharedWorld)
        yield world


async def test_starts_become_pods_that_are_seen_before_they_exist(world: World) -> None:
    await world.act(world.start("light"), world.start("light"), world.start("heavy"))
    states = {r.state for r in await world.driver.workers()}
    assert len(await world.driver.workers()) == 3
    assert states <= {WorkerState.STARTING, WorkerState.READY}
    workers = await world.workers(ready=3)
    assert {r.id for r in workers} == {pod["metadata"]["name"] for pod in world.pods()}
    assert all(r.endpoint.endswith(":8001") for r in workers)
    owner = world.deployments()[0]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("DiffusionCascade", world.subject.uid)


async def test_in_the_steady_state_nothing_is_written(world: World) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    world.requests.clear()
    for _ in range(5):
        await world.mirror.compare()
        await world.driver.reconcile(world.subjects, world.pools)
    assert not world.requests


async def test_a_drain_and_a_stop_take_one_worker_however_often_they_are_said(world: World) -> None:
    await world.act(world.start("light"), world.start("light"))
    first, *_ = await world.workers(ready=2)
    await world.act(DrainWorker(first.id))
    await world.act(DrainWorker(first.id))
    assert {r.id for r in await world.workers(ready=1, draining=1) if r.state is WorkerState.DRAINING} == {first.id}
    for _ in range(3):
        await world.act(StopWorker(first.id))
    await eventually(lambda: len(world.pods()) == 1, what="one pod to be gone")
    await world.mirror.compare()
    # Which one it is depends on the cluster: before 1.22 there was no cost of deletion.
    (left,) = await world.driver.workers()
    assert [d["spec"]["replicas"] for d in world.deployments()] == [1]
    if left.id == first.id:
        await world.act(Load(first.id, *weights_of("light")))
        await world.workers(ready=1)


async def test_a_drain_can_be_taken_back(world: World) -> None:
    await world.act(world.start("light"))
    (worker,) = await world.workers(ready=1)
    await world.act(DrainWorker(worker.id))
    await world.act(Load(worker.id, *weights_of("light")))
    (same,) = await world.workers(ready=1)
    assert same.id == worker.id


async def test_loads_and_unloads_write_to_no_deployment_and_replace_no_pod(world: World) -> None:
    await world.act(world.start("light"))
    (worker,) = await world.hosting("light")
    before, pods = world.deployments(), [pod["metadata"]["uid"] for pod in world.pods()]
    world.requests.clear()
    await world.act(Load(worker.id, *weights_of("heavy")))
    await world.hosting("light", "heavy")
    await world.act(Unload(worker.id, *weights_of("light")))
    await world.hosting("heavy")
    assert [d["metadata"]["generation"] for d in world.deployments()] == [d["metadata"]["generation"] for d in before]
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert world.requests == {"pods": 2}
    (pod,) = world.pods()
    assert pod["metadata"]["annotations"]["diffusioncascade.io/variants"] == "heavy"


async def test_a_variant_that_is_gone_is_unloaded_at_once(world: World) -> None:
    await world.act(world.start("light"))
    (worker,) = await world.hosting("light")
    await world.act(Load(worker.id, *weights_of("heavy")))
    await world.hosting("light", "heavy")
    spec = world.subject.cascade.spec
    fewer = world.subject.cascade.model_copy(update={"spec": spec.model_copy(update={"variants": spec.variants[1:]})})
    world.subject = Subject(fewer, world.subject.profile, uid=world.subject.uid)
    begun = time.monotonic()
    await world.hosting("heavy")
    assert time.monotonic() - begun < 10


async def test_who_comes_later_knows_what_every_worker_is_to_host(world: World, control_plane: Cluster) -> None:
    await world.act(world.start("light"))
    (worker,) = await world.hosting("light")
    await world.act(Load(worker.id, *weights_of("heavy")))
    async with driving(control_plane, world.ref.namespace) as later:
        await later.hosting("light", "heavy")
        written = {"pods", "deployments"} & later.requests.keys()
        assert not written, "to take over is not to write"


async def test_the_secret_of_a_pool_is_made_and_never_read(world: World) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    path = f"/api/v1/namespaces/{world.ref.namespace}/secrets"
    (secret,) = (each for each in world.cluster.api.items(path) if each["type"] == "Opaque")
    assert secret["metadata"]["ownerReferences"][0]["uid"] == world.subject.uid
    assert secret["immutable"]
    assert world.requests["secrets"] == 1


async def test_a_secret_that_somebody_deleted_is_made_again_for_a_pod_that_does_not_start(world: World) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    path = f"/api/v1/namespaces/{world.ref.namespace}/secrets"
    (secret,) = (each for each in world.cluster.api.items(path) if each["type"] == "Opaque")
    world.cluster.api.delete(f"{path}/{secret['metadata']['name']}")
    waiting = copy.deepcopy(world.pods()[0])
    del waiting["status"]["podIP"]
    world.mirror.pods.put(waiting | {"metadata": waiting["metadata"] | {"resourceVersion": str(10**12)}})

    def made() -> list[str]:
        return [each["metadata"]["name"] for each in world.cluster.api.items(path) if each["type"] == "Opaque"]

    await world.driver.reconcile(world.subjects, world.pools)
    assert made() == [], "it may just be slow"
    world.now = time.time() + 60
    await world.driver.reconcile(world.subjects, world.pools)
    assert made() == [secret["metadata"]["name"]]


async def test_who_comes_later_goes_on_where_the_first_was(world: World, control_plane: Cluster) -> None:
    await world.act(world.start("light"), world.start("light"))
    first, second = await world.workers(ready=2)
    await world.act(DrainWorker(first.id))
    async with driving(control_plane, world.ref.namespace) as later:
        later.requests.clear()
        states = {r.id: r.state for r in await later.driver.workers()}
        assert states == {first.id: WorkerState.DRAINING, second.id: WorkerState.READY}
        assert not later.requests, "to take over is not to write"
        await later.act(StopWorker(first.id))
        assert [d["spec"]["replicas"] for d in later.deployments()] == [1]


async def test_another_s_edit_is_put_right_and_reported(world: World, control_plane: Cluster) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    (deployment,) = world.deployments()
    name = deployment["metadata"]["name"]
    control_plane.kubectl("scale", "deployment", name, "--replicas=3", "--namespace", world.ref.namespace)
    await world.mirror.compare()
    await world.driver.reconcile(world.subjects, world.pools)
    assert [d["spec"]["replicas"] for d in world.deployments()] == [1]
    ((reason, text),) = world.notices
    assert reason is Reason.EDIT_REVERTED
    assert "spec.replicas" in text


async def test_a_policy_is_there_before_the_pods_that_it_covers(world: World) -> None:
    (policy,) = world.policies()
    assert not world.pods()
    owner = policy["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("DiffusionCascade", world.subject.uid)
    assert {key: policy["spec"][key] for key in POLICY} == POLICY
    await world.act(world.start("light"), world.start("heavy"))
    await world.workers(ready=2)
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert all(chosen.items() <= pod["metadata"]["labels"].items() for pod in world.pods())


async def test_an_edit_of_the_policy_is_put_right_and_so_is_its_removal(world: World, control_plane: Cluster) -> None:
    (policy,) = world.policies()
    name, place = policy["metadata"]["name"], ("--namespace", world.ref.namespace)
    anybody = '{"spec": {"ingress": [{}]}}'
    control_plane.kubectl("patch", "networkpolicy", name, "--type=merge", f"--patch={anybody}", *place)
    await world.mirror.compare()
    await world.driver.reconcile(world.subjects, world.pools)
    assert world.policies()[0]["spec"] == policy["spec"]
    ((reason, text),) = world.notices
    assert reason is Reason.EDIT_REVERTED
    assert f"NetworkPolicy {name}: spec.ingress" in text
    control_plane.kubectl("delete", "networkpolicy", name, *place)
    await world.mirror.compare()
    await world.driver.reconcile(world.subjects, world.pools)
    assert world.policies()[0]["spec"] == policy["spec"]


async def test_who_comes_later_takes_the_policy_over_or_away_as_it_is_told(
    world: World, control_plane: Cluster
) -> None:
    async with driving(control_plane, world.ref.namespace) as later:
        assert not later.notices
        assert not later.requests["networkpolicies"], "it is as it should be"
    async with driving(control_plane, world.ref.namespace, policy=None):
        assert not world.policies()
    async with driving(control_plane, world.ref.namespace):
        assert len(world.policies()) == 1
    async with driving(control_plane, world.ref.namespace, policy={**POLICY, "ingress": []}) as stricter:
        assert "ingress" not in world.policies()[0]["spec"]
        assert not stricter.notices, "that is no edit of somebody else's"


async def test_a_changed_template_reaches_every_pool_and_a_pool_that_is_gone_leaves_none(world: World) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    await world.change(pool={"podTemplate": {"annotations": {"team": "red"}}})
    (deployment,) = world.deployments()
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {"team": "red"}
    await eventually(
        lambda: [(pod["metadata"].get("annotations") or {}).get("team") for pod in world.pods()] == ["red"],
        what="another pod in place of the first",
    )
    (worker,) = await world.workers(ready=1)
    # From here on the spec has another pool only.
    spec = world.subject.cascade.spec
    renamed = [pool.model_copy(update={"name": f"new-{pool.name}"}) for pool in spec.workers]
    cascade = world.subject.cascade.model_copy(update={"spec": spec.model_copy(update={"workers": renamed})})
    world.subject = Subject(cascade, world.subject.profile, uid=world.subject.uid)
    await world.driver.reconcile(world.subjects, world.pools)
    await world.act(StopWorker(worker.id))

    async def removed() -> bool:
        await world.mirror.compare()
        await world.driver.reconcile(world.subjects, world.pools)
        return not world.deployments()

    await eventually(removed, what="the pool to be removed")


async def test_the_deployment_of_a_variant_that_an_earlier_version_made_is_removed(
    world: World, control_plane: Cluster
) -> None:
    labels = {"pool": "shapes-light-cpu-123456", "cascade": "shapes", "variant": "light", "class": "cpu"}
    named = {f"diffusioncascade.io/{name}": value for name, value in labels.items()}
    earlier = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": labels["pool"], "labels": named},
        "spec": {
            "selector": {"matchLabels": named},
            "template": {
                "metadata": {"labels": named},
                "spec": {"nodeSelector": {"driver": "yes"}, "containers": [{"name": "c", "image": "valkey:1"}]},
            },
        },
    }
    control_plane.apply(yaml.safe_dump(earlier), namespace=world.ref.namespace)
    await world.act(world.start("light"))

    async def removed() -> bool:
        await world.mirror.compare()
        await world.driver.reconcile(world.subjects, world.pools)
        return [d["metadata"]["labels"]["diffusioncascade.io/pool"] for d in world.deployments()] == ["cpu"]

    await eventually(removed, what="the old Deployment to be removed")
    await world.hosting("light")


async def test_what_others_hold_is_not_there(world: World, control_plane: Cluster) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    await eventually(lambda: world.counts(SLOTS), what="every slot to be counted")
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger"},
        "spec": {
            "nodeSelector": {"driver": "yes"},
            "containers": [{"name": "c", "image": "valkey:1", "resources": {"requests": {"cpu": "1500m"}}}],
        },
    }
    control_plane.apply(yaml.safe_dump(stranger), namespace=world.ref.namespace)

    await eventually(lambda: world.counts(SLOTS - 2), what="the stranger to be counted")


async def test_a_template_that_the_cluster_refuses_is_told_and_not_offered_at_every_tick(world: World) -> None:
    await world.act(world.start("light"))
    await world.workers(ready=1)
    world.requests.clear()
    world.now = time.time()
    for _ in range(3):
        await world.change(pool={"podTemplate": {"tolerations": [{"key": "a", "operator": "Sometimes"}]}})
    assert world.requests["deployments"] == 1
    ((reason, text),) = world.notices
    assert reason is Reason.INVALID_SPEC
    assert "operator" in text
    await world.change()
    assert (await world.workers(ready=1))[0].state is WorkerState.READY


async def test_cascades_on_a_worker_pool_share_one_deployment_that_is_the_pool_s(shared: SharedWorld) -> None:
    ours, other = weights_of("light", "heavy")
    await shared.act(StartWorker(shared.pool, "cpu", (ours,)))
    (worker,) = await shared.hosting(ours)
    assert worker.pool == shared.pool
    await shared.act(Load(worker.id, other))
    await shared.hosting(ours, other)
    await eventually(lambda: shared.counts(SLOTS), what="its worker to be counted once")
    path = f"/api/v1/namespaces/{shared.ref.namespace}/secrets"
    (secret,) = (each for each in shared.cluster.api.items(path) if each["type"] == "Opaque")
    (deployment,), (policy,), (pod,) = shared.deployments(), shared.policies(), shared.pods()
    for each in (deployment, policy, secret):
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("WorkerPool", "slots", shared.pools[0].uid)
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["annotations"]["diffusioncascade.io/variants"] == "shapes/light,bert/heavy"
    shared.requests.clear()
    for _ in range(3):
        await shared.mirror.compare()
        await shared.driver.reconcile(shared.subjects, shared.pools)
    assert not shared.requests, "in the steady state nothing is written"


async def test_a_cascade_that_leaves_a_worker_pool_takes_its_weights_and_nothing_else(shared: SharedWorld) -> None:
    ours, other = weights_of("light", "heavy")
    await shared.act(StartWorker(shared.pool, "cpu", (ours, other)))
    await shared.hosting(ours, other)
    before, pods = shared.deployments(), [pod["metadata"]["uid"] for pod in shared.pods()]
    # A cascade whose profile is missing says nothing of what agents host, and neither does who is left.
    shared.others["bert"] = replace(shared.others["bert"], profile=None)
    await shared.hosting(ours, other)
    shared.requests.clear()
    del shared.others["bert"]
    begun = time.monotonic()
    await shared.hosting(ours)
    assert time.monotonic() - begun < 10
    assert [d["metadata"]["generation"] for d in shared.deployments()] == [d["metadata"]["generation"] for d in before]
    assert [pod["metadata"]["uid"] for pod in shared.pods()] == pods
    assert shared.requests == {"pods": 1}

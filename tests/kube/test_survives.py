"""Pods, Redis and the API server go in every way while requests arrive: each is answered or refused, and none is lost.

Each test prints its counts. Clients are those of docs/router.md: they send once again what lost its connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import CHART, ROOT
from support.installation import Load, variant_of
from support.kube import kubectl
from support.kube_api import ApiError, History, Object
from support.kube_images import EARLIER, earlier_tree
from support.kube_node import PRICED, Release, all_ready
from support.patience import patient_documents, with_replicas

pytestmark = pytest.mark.kube

RATE = 4.0
REPLICAS = 2
OTHER = {"podAnnotations": {"changed": "yes"}}
MOST = 4
"""Replicas that a cascade whose load rises may have."""
API_OUTAGE_S = 20


@pytest.fixture(scope="module")
def served(release: Release) -> Iterator[str]:
    """A namespace with a cascade of two replicas of each variant."""
    namespace = release.node.make_namespace()
    release.serve(namespace, cascade(light=REPLICAS, heavy=REPLICAS))
    yield namespace
    release.node.remove_namespace(namespace)


def cascade(*, light: int, heavy: int) -> str:
    """The manifest of a cascade with so many replicas, four together, which is all that it may have."""
    documents = patient_documents(light_ms=100, heavy_ms=200, objective={"latency": "20s"})
    return yaml.safe_dump_all(with_replicas(documents, light=light, heavy=heavy))


@pytest.fixture
def under_load(release: Release, served: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """A load around the test, which calls what it gets to see more of it answered; then all is whole again."""
    whole(release, served)
    with release.load(model=f"{served}.shapes", rate=RATE) as load:

        def go_on() -> None:
            before = load.answered
            try:
                release.node.expect(lambda: load.answered >= before + 3 * RATE, what="more images")
            except AssertionError as failure:
                raise AssertionError(f"{failure}\n{load.log.read_text()[-2000:]}") from None

        go_on()
        yield go_on
        whole(release, served)
        go_on()
    none_lost(load, request.node.name)


def none_lost(load: Load, name: str) -> None:
    """Print the counts of a load that has ended, of which each request was answered or refused."""
    result = load.result
    counts = {kind: result[kind] for kind in ("sent", "answered", "refused", "lost", "retried")}
    print(f"\n{name}: {counts}")
    assert result["balanced"], result
    assert not result["lost"], result
    assert result["sent"] == result["answered"] + sum(result["refused"].values()), result
    assert result["answered"], result


def whole(release: Release, served: str) -> None:
    """Waits until every pod is there and ready, and none besides."""
    wanted = {"operator": 1, "router": 2, "redis": 1}

    def look() -> bool:
        ours = all(all_ready(release.pods(component), number) for component, number in wanted.items())
        return ours and all_ready(release.replicas(served), 2 * REPLICAS)

    release.node.expect(look, what="all pods to be there again")


def nothing_moves(release: Release, served: str) -> None:
    """Waits until no weights are being moved: a model that a worker is about to unload is not replaced."""
    what = "jsonpath={.status.conditions[?(@.type=='Progressing')].status}"
    where = ["get", "dcas", "shapes", "--namespace", served, "--output", what]
    release.node.expect(lambda: release.node.kubectl(*where) == "False", what="nothing to be moved")


def end(release: Release, pod: Object, *, grace_s: int | None = None) -> None:
    where = pod["metadata"]
    release.node.api.delete(f"/api/v1/namespaces/{where['namespace']}/pods/{where['name']}", grace_s=grace_s)


def gone(release: Release, pod: Object) -> bool:
    where = pod["metadata"]
    now = release.node.api.find(f"/api/v1/namespaces/{where['namespace']}/pods/{where['name']}")
    return now is None or now["metadata"]["uid"] != where["uid"]


def test_a_rolling_restart_of_the_routers(release: Release, under_load: Callable[[], None]) -> None:
    deployment = "deployment/dc-diffusion-cascade-router"
    release.node.kubectl("rollout", "restart", deployment, "--namespace", release.namespace)
    release.node.kubectl("rollout", "status", deployment, "--namespace", release.namespace, "--timeout", "5m")


@pytest.mark.parametrize("component", ["operator", "redis", "router"])
def test_a_pod_that_is_deleted(release: Release, under_load: Callable[[], None], component: str) -> None:
    pod = release.pods(component)[0]
    end(release, pod)
    release.node.expect(lambda: gone(release, pod), what=f"the {component} to be gone")


def test_a_redis_that_loses_its_volume(release: Release, served: str, under_load: Callable[[], None]) -> None:
    """Its successor begins with nothing, and the operator publishes the plan there again."""
    server = f"statefulset/{release.name}-diffusion-cascade-redis"
    redis = release.pods("redis")[0]
    with release.node.volume():  # what a storage class would make for the next claim
        release.node.kubectl("scale", server, "--replicas=0", "--namespace", release.namespace)
        release.node.expect(lambda: gone(release, redis), what="Redis to be gone")
        under_load()
        release.node.kubectl("delete", "pvc", "--all", "--namespace", release.namespace)
        release.node.kubectl("scale", server, "--replicas=1", "--namespace", release.namespace)
        release.node.expect(lambda: all_ready(release.pods("redis"), 1), what="Redis to be back")
        release.node.expect(lambda: "True" in plan_in_redis(release, served), what="the plan to be published again")


def plan_in_redis(release: Release, served: str) -> str:
    """Prints True if the plan of the cascade is in Redis, as a router finds it."""
    key = f"cascade:{{{served}/shapes}}:plan"
    ask = f"import os, redis; print(redis.from_url(os.environ['REDIS_URL']).exists({key!r}) == 1)"
    return in_pod(release, release.pods("router")[0], ask, check=False)


def test_an_api_server_that_is_away(release: Release, served: str, under_load: Callable[[], None]) -> None:
    """Nothing is torn down or restarted meanwhile, and the operator moves replicas afterwards."""
    before = {pod["metadata"]["uid"] for pod in release.replicas(served)}
    operator = release.pods("operator")[0]
    restarted = restarts(release, operator)
    with release.node.without_api_server():
        back = time.monotonic() + API_OUTAGE_S
        while time.monotonic() < back:
            under_load()
    assert {pod["metadata"]["uid"] for pod in release.replicas(served)} == before
    release.node.apply(cascade(light=1, heavy=3), namespace=served)
    wait_settled(release, served, light=1, heavy=3)
    assert restarts(release, operator) == restarted


def test_an_operator_that_is_deleted_in_the_middle_of_a_move(
    release: Release, served: str, under_load: Callable[[], None]
) -> None:
    """No accelerator is free, so a worker goes over from one variant to the other, and its pod stays."""
    light, heavy = (1, 3) if release.wanted(served)["shapes-light"] == REPLICAS else (REPLICAS, REPLICAS)
    before, pods = release.wanted(served), {pod["metadata"]["uid"] for pod in release.replicas(served)}
    release.node.apply(cascade(light=light, heavy=heavy), namespace=served)
    release.node.expect(lambda: release.wanted(served) != before, what="the move to begin")
    end(release, release.pods("operator")[0])
    wait_settled(release, served, light=light, heavy=heavy)
    assert {pod["metadata"]["uid"] for pod in release.replicas(served)} == pods


def wait_settled(release: Release, served: str, *, light: int, heavy: int) -> None:
    """Waits until exactly these replicas are wanted, and ready."""
    wanted = {"shapes-light": light, "shapes-heavy": heavy}

    def look() -> bool:
        pods = release.replicas(served)
        ready = all_ready(pods, light + heavy) and Counter(map(variant_of, pods)) == wanted
        return ready and release.wanted(served) == wanted

    release.node.expect(look, what=f"replicas of {wanted}")


def test_a_replica_that_is_killed_by_force(release: Release, served: str, under_load: Callable[[], None]) -> None:
    pod = release.replicas(served)[0]
    begun = time.monotonic()
    end(release, pod, grace_s=0)
    release.node.expect(lambda: gone(release, pod), what="the replica to be gone")
    whole(release, served)
    print(f"\na replica lost: another ready in its place after {elapsed(begun)}")


@pytest.mark.parametrize("process", ["triton_python_backend_stub", "tritonserver"])
def test_a_process_of_a_replica_that_is_killed(
    release: Release, served: str, under_load: Callable[[], None], process: str
) -> None:
    """The one that runs a model, and the server itself. The agent beside them replaces both, in the same container."""
    nothing_moves(release, served)
    pod = release.replicas(served)[0]
    found, before = processes(pod, process), restarts(release, pod)
    assert found
    begun = time.monotonic()
    os.kill(found[0], signal.SIGKILL)
    release.node.expect(lambda: set(processes(pod, process)) - set(found), what="another process in its place")
    whole(release, served)
    assert restarts(release, pod) == before
    print(f"\n{process} killed: the replica ready again after {elapsed(begun)}")


def restarts(release: Release, pod: Object) -> int:
    where = pod["metadata"]
    now = release.node.api.get(f"/api/v1/namespaces/{where['namespace']}/pods/{where['name']}")
    return sum(int(container["restartCount"]) for container in now["status"]["containerStatuses"])


def processes(pod: Object, name: str) -> list[int]:
    """Processes of this machine that belong to a pod and whose program is called ``name``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            belongs = pod["metadata"]["uid"] in (process / "cgroup").read_text()
            if belongs and (process / "comm").read_text().strip() == name[:15]:
                found.append(int(process.name))
    return found


def in_pod(release: Release, pod: Object, code: str, *, check: bool = True) -> str:
    """What a few lines of Python print in a pod."""
    where = pod["metadata"]
    command = ["exec", "--namespace", where["namespace"], where["name"], "--", "python3", "-c", code]
    return release.node.kubectl(*command, check=check)


def test_a_replica_that_takes_more_memory_than_it_may(
    release: Release, served: str, under_load: Callable[[], None]
) -> None:
    """The kernel kills what takes it (OOM), here a process that came from outside; the rest goes on or is made anew."""
    pod = release.replicas(served)[0]
    limit = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert limit
    greedy = (
        "open('/proc/self/oom_score_adj', 'w').write('1000')\nx = []\nwhile True: x.append(bytearray(b'1' * 2**24))"
    )
    assert "137" in in_pod(release, pod, greedy, check=False)


def test_a_drained_node(release: Release, served: str, under_load: Callable[[], None]) -> None:
    """Of the routers one goes, and the other when the first has a successor, which the only Node takes at the end."""
    routers = release.pods("router")
    replica = release.replicas(served)[0]
    selector = "app.kubernetes.io/component=router"
    options = ["--pod-selector", selector, "--delete-emptydir-data", "--force", "--timeout", "300s"]
    drain = subprocess.Popen(
        [kubectl(), "drain", "node-1", *options], env=release.node.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        release.node.expect(lambda: any(gone(release, pod) for pod in routers), what="a router to be gone")
        left = [pod for pod in routers if not gone(release, pod)]
        with pytest.raises(ApiError) as refused:
            evict(release, left[0])
        assert refused.value.status == 429
        evict(release, replica)
        release.node.expect(lambda: gone(release, replica), what="the replica to be gone")
        under_load()
        assert drain.poll() is None
        release.node.kubectl("uncordon", "node-1")
        assert drain.wait(timeout=300) == 0
        assert all(gone(release, pod) for pod in routers)
    finally:
        drain.kill()
        drain.wait()
        release.node.kubectl("uncordon", "node-1")


def evict(release: Release, pod: Object) -> None:
    where = pod["metadata"]
    body: dict[str, Any] = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": where["name"]}}
    release.node.api.create(f"/api/v1/namespaces/{where['namespace']}/pods/{where['name']}/eviction", body)


def test_a_step_of_demand(release: Release) -> None:
    """More replicas come when the load rises and go when it falls, within the ceiling at every instant; none fails."""
    node, namespace = release.node, release.node.make_namespace()
    documents = patient_documents(light_ms=150, heavy_ms=600, workers=MOST, objective={"latency": "8s"})
    release.serve(namespace, yaml.safe_dump_all(documents))
    with (
        History(node.api, "/api/v1/pods").recorded() as history,
        release.load(model=f"{namespace}.shapes", rate=0.5) as calm,
    ):
        few = node.expect(lambda: settled(release, namespace, below=MOST), what="replicas for a calm load")
        with release.load(model=f"{namespace}.shapes", rate=6) as busy:
            begun = time.monotonic()
            node.expect(lambda: sum(release.wanted(namespace).values()) > few, what="more replicas to be wanted")
            asked_s = time.monotonic() - begun
            many = node.expect(lambda: settled(release, namespace, above=few), what="more replicas")
            print(f"\nthe load rose: more replicas wanted after {asked_s:.0f} s, ready after {elapsed(begun)}")
        begun = time.monotonic()
        node.expect(lambda: settled(release, namespace, below=many), what="fewer replicas")
        print(f"the load fell: fewer replicas, and the others gone, after {elapsed(begun)}")
    for load, name in ((calm, "calm"), (busy, "busy")):
        none_lost(load, f"a step of demand, the {name} load")
        assert load.unfailed, load.result
    assert history.most_in_use(namespace, resource="cpu")["all"] <= MOST

    begun = time.monotonic()
    node.apply(yaml.safe_dump_all(with_replicas(documents, light=3, heavy=1)), namespace=namespace)
    node.expect(lambda: release.wanted(namespace).get("shapes-light") == 3, what="the workers to follow the spec")
    asked_s = time.monotonic() - begun
    wait_settled(release, namespace, light=3, heavy=1)
    print(f"a changed spec: told to the workers after {asked_s:.1f} s, its replicas ready after {elapsed(begun)}")
    node.remove_namespace(namespace)


def settled(release: Release, namespace: str, *, above: int = 0, below: int = 1000) -> int:
    """The number of replicas when all that are wanted are ready and no other is there, and it is in between; else 0."""
    wanted = sum(release.wanted(namespace).values())
    return wanted if all_ready(release.replicas(namespace), wanted) and above < wanted < below else 0


def elapsed(begun: float) -> str:
    return f"{time.monotonic() - begun:.0f} s"


@pytest.fixture
def earlier(release: Release, served: str) -> str:
    """The release is of an earlier commit: its chart and its images. Where there is none, of another tag's images."""
    with earlier_tree() as tree:
        chart = (tree.root if tree else ROOT) / CHART.relative_to(ROOT)
        values = {**PRICED, "image": {"tag": EARLIER}} if tree else {**PRICED, "operator": OTHER, "router": OTHER}
        release.put("upgrade", chart=chart, **values)
    whole(release, served)
    return "an earlier commit" if tree else "other values, since there is no earlier commit that can be upgraded"


def test_an_upgrade(release: Release, earlier: str, served: str, under_load: Callable[[], None]) -> None:
    """Routers, operator and replicas are replaced by those of the working tree."""
    before = {pod["metadata"]["uid"] for pod in [*release.pods("router"), *release.pods("operator")]}
    print(f"\nan upgrade from {earlier}")
    release.put("upgrade", **PRICED)
    under_load()
    whole(release, served)
    assert not before & {pod["metadata"]["uid"] for pod in [*release.pods("router"), *release.pods("operator")]}
    for pod in release.replicas(served):
        assert EARLIER not in pod["spec"]["containers"][0]["image"]


def test_an_idle_router_ends_at_once(release: Release, served: str) -> None:
    """In seconds, and not after the longest generation. The time is printed."""
    whole(release, served)
    pod = release.pods("router")[0]
    grace_s = pod["spec"]["terminationGracePeriodSeconds"]
    begun = time.monotonic()
    end(release, pod)
    release.node.expect(lambda: gone(release, pod), what="the router to be gone", within_s=grace_s)
    print(f"\nan idle router was gone after {elapsed(begun)}, of {grace_s} s that it may take")

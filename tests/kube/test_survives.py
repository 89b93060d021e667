"""Real pods end in every way while requests arrive: each of these is answered or refused, and none is lost.

Each test prints its counts. Clients are those of docs/router.md: they send once again what lost its connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kube import kubectl
from support.kube_api import ApiError, Object
from support.kube_node import CRDS, KubeNode, Release, all_ready
from support.patience import patient_documents, with_replicas

pytestmark = pytest.mark.kube

RATE = 4.0
REPLICAS = 2
DEFINITIONS = {"keep": False, "rules": "always"}


@pytest.fixture(scope="module")
def release(kube_node: KubeNode) -> Iterator[Release]:
    """A release whose definitions have their rules and go with it; all else is as by default."""
    release = Release(kube_node)
    with kube_node.volume():
        try:
            release.install(crds=DEFINITIONS)
            yield release
        finally:
            release.uninstall()
    assert not kube_node.kubectl("get", "crd", *CRDS, "--ignore-not-found", "--output", "name")


@pytest.fixture(scope="module")
def served(release: Release) -> Iterator[str]:
    """A namespace with a cascade of two replicas of each variant."""
    namespace = release.node.make_namespace()
    documents = patient_documents(light_ms=100, heavy_ms=200, objective={"latency": "20s"})
    release.serve(namespace, yaml.safe_dump_all(with_replicas(documents, light=REPLICAS, heavy=REPLICAS)))
    yield namespace
    release.node.remove_namespace(namespace)


@pytest.fixture
def under_load(release: Release, served: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """A load around the test, which calls what it gets to see more of it answered; then all is whole again."""
    whole(release, served)
    with release.load(model=f"{served}.shapes", rate=RATE) as load:

        def go_on() -> None:
            before = load.answered
            release.node.expect(lambda: load.answered >= before + 3 * RATE, what="more images")

        go_on()
        yield go_on
        whole(release, served)
        go_on()
    result = load.result
    counts = {name: result[name] for name in ("sent", "answered", "refused", "lost", "retried")}
    print(f"\n{request.node.name}: {counts}")
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


def test_a_replica_that_is_killed_by_force(release: Release, served: str, under_load: Callable[[], None]) -> None:
    pod = release.replicas(served)[0]
    end(release, pod, grace_s=0)
    release.node.expect(lambda: gone(release, pod), what="the replica to be gone")


@pytest.mark.parametrize("process", ["triton_python_backend_stub", "tritonserver"])
def test_a_process_of_a_replica_that_is_killed(
    release: Release, served: str, under_load: Callable[[], None], process: str
) -> None:
    """The one that runs a model, and the server itself, which as the first of its pod bears no signal from inside."""
    pod = release.replicas(served)[0]
    found, before = processes(pod, process), restarts(release, pod)
    assert found
    os.kill(found[0], signal.SIGKILL)
    release.node.expect(lambda: restarts(release, pod) > before, what="the container to be started again")


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


def test_an_upgrade(release: Release, under_load: Callable[[], None]) -> None:
    """Other values of routers and operator, and back."""
    other = {"podAnnotations": {"changed": "yes"}}
    release.put("upgrade", router=other, operator=other, crds=DEFINITIONS)
    under_load()
    release.put("upgrade", crds=DEFINITIONS)


def test_an_idle_router_ends_at_once(release: Release, served: str) -> None:
    """In seconds, and not after the longest generation. The time is printed."""
    whole(release, served)
    pod = release.pods("router")[0]
    grace_s = pod["spec"]["terminationGracePeriodSeconds"]
    begun = time.monotonic()
    end(release, pod)
    release.node.expect(lambda: gone(release, pod), what="the router to be gone", within_s=grace_s)
    print(f"\nan idle router was gone after {time.monotonic() - begun:.0f} s, of {grace_s} s that it may take")

"""Workers that host all variants: load and weights move, and no pod or Deployment is touched for it."""

from __future__ import annotations

import math
import time

import psutil
import pytest

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from support.installation import Installation
from support.kube_api import Object
from support.patience import patient_documents
from support.processes import children, runs

pytestmark = pytest.mark.cluster

WORKERS = 2
STEADY_S = 4.0
MENDED_S = 10.0
"""Within this time everything is hosted again, whatever died."""


def documents() -> list[Object]:
    made = patient_documents(light_ms=150, heavy_ms=600, workers=WORKERS, objective={"latency": "12s"})
    for document in made:
        if document["kind"] == "DiffusionCascade":
            document["spec"]["workers"][0] |= {"hosting": "shared", "min": WORKERS}
    return made


def plan(installation: Installation, tenant: str) -> Plan | None:
    """The plan in force."""
    with installation.redis.client() as client:
        text = client.get(CascadeRef(tenant, "shapes").plan_key)
    return Plan.model_validate_json(text) if text else None


def hosted(installation: Installation, tenant: str) -> bool:
    """Whether the plan has all workers, and each hosts both weights."""
    found = plan(installation, tenant)
    return found is not None and [len(worker.hosts) for worker in found.workers] == [2] * WORKERS


def identities(installation: Installation, tenant: str) -> tuple[set[str], set[tuple[str, int]]]:
    """The pods, and the Deployments in their versions."""
    deployments = installation.cluster.api.items(f"/apis/apps/v1/namespaces/{tenant}/deployments")
    pods = {pod["metadata"]["uid"] for pod in installation.replicas(tenant)}
    return pods, {(each["metadata"]["uid"], each["metadata"]["generation"]) for each in deployments}


def test_a_step_of_demand_changes_shares_alone(installation: Installation, tenant: str) -> None:
    installation.apply(documents(), namespace=tenant)
    installation.wait_served(tenant)
    with installation.load(rate=1, model=f"{tenant}.shapes") as calm:
        installation.expect(lambda: hosted(installation, tenant) and calm.answered > 5, what="a steady load")
        before, there = plan(installation, tenant), identities(installation, tenant)
        assert before is not None
        with installation.load(rate=6, model=f"{tenant}.shapes") as load:
            begun = time.monotonic()
            installation.expect(
                lambda: (now := plan(installation, tenant)) is not None and now.rows != before.rows, what="other shares"
            )
            print(f"\nthe demand rose: other shares after {time.monotonic() - begun:.1f} s")
    assert calm.unfailed, calm.result
    assert load.unfailed, load.result
    assert identities(installation, tenant) == there


@pytest.mark.parametrize("what", ["model", "server", "agent", "operator"])
def test_whatever_dies_everything_is_hosted_again(installation: Installation, tenant: str, what: str) -> None:
    installation.apply(documents(), namespace=tenant)
    installation.wait_served(tenant)
    installation.expect(lambda: hosted(installation, tenant), what="both weights on every worker")
    pod = installation.replicas(tenant)[0]["metadata"]["name"]
    with installation.load(rate=1, model=f"{tenant}.shapes") as load:
        victim = _victim(installation, tenant, pod, what)
        victim.kill()
        begun = time.monotonic()
        installation.expect(
            lambda: not runs(victim) and _stubs(installation, tenant, pod) == 2, what="two models on the worker"
        )
        took_s = _hosted_since(installation, tenant) - begun
        print(f"\n{what} killed: everything hosted again after {took_s:.1f} s")
        answered = load.answered
        installation.expect(lambda: load.answered > answered + 3, what="more images")
    assert took_s < MENDED_S
    assert load.result["balanced"], load.result


def _hosted_since(installation: Installation, tenant: str) -> float:
    """Since when everything is hosted, once that is so for `STEADY_S`: a plan may be older than what broke."""
    since = math.inf

    def steady() -> bool:
        nonlocal since
        since = min(since, time.monotonic()) if hosted(installation, tenant) else math.inf
        return time.monotonic() - since > STEADY_S

    installation.expect(steady, what="both weights on every worker")
    return since


def _victim(installation: Installation, tenant: str, pod: str, what: str) -> psutil.Process:
    if what == "operator":
        operator = installation.pods("operator")[0]["metadata"]["name"]
        (container,) = installation.agent.containers(installation.namespace, operator)
        return container.command
    (container,) = installation.agent.containers(tenant, pod)
    agent = container.command
    if what == "agent":
        return agent
    (server,) = children(agent.pid)
    return server if what == "server" else children(server.pid)[0]


def _stubs(installation: Installation, tenant: str, pod: str) -> int:
    """The model processes of a worker."""
    (container,) = installation.agent.containers(tenant, pod)
    if container.pid is None:
        return 0
    return sum(len(children(server.pid)) for server in children(container.pid))

"""Workers that host all variants: load and weights move, and no pod or Deployment is touched for it."""

from __future__ import annotations

import math
import time

import psutil
import pytest
import yaml

from cascade_api.names import API_VERSION, CascadeRef
from cascade_api.plan import Plan
from support.installation import CASCADES, DEFINED, Installation
from support.kube import ROOT
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


ALONE = {"lights": "shapes-light", "heavies": "shapes-heavy"}
"""Cascades on one WorkerPool, each of one variant, with weights of its own."""


def on_a_pool() -> list[Object]:
    """A WorkerPool, and the cascades of `ALONE`, whose weights all of its workers host."""
    pool = {"apiVersion": API_VERSION, "kind": "WorkerPool", "metadata": {"name": "slots"}}
    made = [{**pool, "spec": {"class": "cpu", "workers": {"min": WORKERS, "max": WORKERS}}}]
    for name, variant in ALONE.items():
        for document in patient_documents(light_ms=150, heavy_ms=600, name=name, objective={"latency": "12s"}):
            spec = document["spec"]
            if document["kind"] == "DiffusionCascade":
                spec["workers"] = [{"pool": "slots", "max": WORKERS}]
                spec["variants"] = [
                    {**each, "minHosts": WORKERS} for each in spec["variants"] if each["name"] == variant
                ]
            else:
                spec["quality"] = [{"chain": [variant], "valuesMilli": spec["quality"][0]["valuesMilli"]}]
            made.append(document)
    return made


def serve_on_a_pool(installation: Installation, tenant: str) -> None:
    """Serve `on_a_pool`, until every worker hosts all of it."""
    installation.apply(on_a_pool(), namespace=tenant)
    for name in ALONE:
        installation.wait_served(tenant, name)
    installation.expect(lambda: everywhere(installation, tenant, len(ALONE)), what="all weights on every worker")


def said(installation: Installation, tenant: str) -> Object:
    """What the status of the pool says."""
    pool = installation.cluster.api.get(f"{DEFINED}/namespaces/{tenant}/workerpools/slots")
    status = pool.get("status") or {}
    weights = [(each["variants"], each["workers"]) for each in status.get("weights", ())]
    return {"cascadeCount": status.get("cascadeCount"), "workers": status.get("workers"), "weights": weights}


def everywhere(installation: Installation, tenant: str, models: int) -> bool:
    """Whether each worker of the tenant has so many models."""
    pods = [pod["metadata"]["name"] for pod in installation.replicas(tenant)]
    return [_stubs(installation, tenant, pod) for pod in pods] == [models] * WORKERS


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


def test_a_cascade_that_is_deleted_leaves_a_pool_to_the_others(installation: Installation, tenant: str) -> None:
    serve_on_a_pool(installation, tenant)
    assert installation.deployments(tenant) == {"slots": WORKERS}, "one Deployment for all cascades"
    weights = [("heavies/shapes-heavy", WORKERS), ("lights/shapes-light", WORKERS)]
    expected = {"cascadeCount": 2, "workers": f"{WORKERS}/{WORKERS}", "weights": weights}
    installation.expect(lambda: said(installation, tenant) == expected, what="the pool's status to say so")
    pods, deployments = identities(installation, tenant)
    with (
        installation.load(rate=1, model=f"{tenant}.heavies") as load,
        installation.load(rate=1, model=f"{tenant}.lights") as other,
    ):
        installation.expect(lambda: load.answered > 3 and other.answered > 3, what="images of both")
        installation.cluster.api.delete(f"{CASCADES.format(namespace=tenant)}/lights")
        begun = time.monotonic()
        installation.expect(lambda: everywhere(installation, tenant, 1), what="the weights of one cascade alone")
        took_s = time.monotonic() - begun
        print(f"\na cascade was deleted: its weights are gone after {took_s:.1f} s")
        answered = load.answered
        installation.expect(lambda: load.answered > answered + 3, what="more images of the other")
    assert took_s < MENDED_S
    assert load.unfailed, load.result
    assert identities(installation, tenant) == (pods, deployments)
    expected = {"cascadeCount": 1, "workers": f"{WORKERS}/{WORKERS}", "weights": [("heavies/shapes-heavy", WORKERS)]}
    installation.expect(lambda: said(installation, tenant) == expected, what="the pool's status to say so")


@pytest.mark.parametrize("what", ["model", "operator"])
def test_whatever_dies_the_weights_of_all_cascades_of_a_pool_are_hosted_again(
    installation: Installation, tenant: str, what: str
) -> None:
    serve_on_a_pool(installation, tenant)
    there = identities(installation, tenant)
    with (
        installation.load(rate=1, model=f"{tenant}.heavies") as load,
        installation.load(rate=1, model=f"{tenant}.lights") as other,
    ):
        victim = _victim(installation, tenant, installation.replicas(tenant)[0]["metadata"]["name"], what)
        victim.kill()
        installation.expect(
            lambda: not runs(victim) and everywhere(installation, tenant, len(ALONE)), what="all weights everywhere"
        )
        answered = load.answered, other.answered
        installation.expect(
            lambda: load.answered > answered[0] + 3 and other.answered > answered[1] + 3, what="more images of both"
        )
    for each in (load, other):
        assert each.result["balanced"], each.result
    assert identities(installation, tenant) == there


def test_an_operator_that_dies_while_a_pool_loads_weights_has_them_loaded(
    installation: Installation, tenant: str
) -> None:
    first = [each for each in on_a_pool() if each["metadata"]["name"] != "heavies"]
    installation.apply(first, namespace=tenant)
    installation.wait_served(tenant, "lights")
    installation.expect(lambda: everywhere(installation, tenant, 1), what="the first weights on every worker")
    there = identities(installation, tenant)
    with installation.load(rate=1, model=f"{tenant}.lights") as load:
        installation.apply(on_a_pool(), namespace=tenant)
        told = "heavies/shapes-heavy"
        installation.expect(
            lambda: any(told in variants_of(pod) for pod in installation.replicas(tenant)), what="a load to begin"
        )
        victim = _victim(installation, tenant, "", "operator")
        victim.kill()
        installation.expect(lambda: not runs(victim), what="the operator to be gone")
        installation.wait_served(tenant, "heavies")
        installation.expect(lambda: everywhere(installation, tenant, len(ALONE)), what="all weights everywhere")
    assert load.unfailed, load.result
    assert identities(installation, tenant) == there


def variants_of(pod: Object) -> list[str]:
    """What the agent of a worker is told to host."""
    noted: str = (pod["metadata"].get("annotations") or {}).get("diffusioncascade.io/variants", "")
    return noted.split(",")


def test_the_example_of_a_pool_is_served(installation: Installation, tenant: str) -> None:
    documents = list(yaml.safe_load_all((ROOT / "examples" / "shared-pool.yaml").read_text()))
    for document in documents:
        document["metadata"].pop("namespace", None)
    installation.apply(documents, namespace=tenant)
    for name in ("portraits", "posters", "icons"):
        installation.wait_served(tenant, name)
    assert installation.deployments(tenant).keys() == {"slots"}


def test_a_worker_pool_that_is_deleted_is_missed_by_name_and_may_come_back(
    installation: Installation, tenant: str
) -> None:
    serve_on_a_pool(installation, tenant)
    path = f"{DEFINED}/namespaces/{tenant}/workerpools/slots"
    installation.cluster.api.delete(path)
    for name in ALONE:
        accepted = installation.wait_condition(tenant, "Accepted", "False", name=name)
        assert "there is no WorkerPool 'slots'" in accepted["message"]
    installation.expect(lambda: not installation.replicas(tenant), what="its workers to be gone")
    serve_on_a_pool(installation, tenant)

"""A Prometheus that scrapes an installation: panels and alerts have data, and what goes wrong raises its alert."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton

from support.helm import MONITORING, of_kind, programs, render
from support.installation import RELEASE, Installation
from support.kube_api import Object
from support.patience import patient_documents, with_replicas
from support.prometheus import Prometheus, compared, panel_queries, scrape_of
from support.router import EASY, inputs_of
from support.waiting import wait_for

pytestmark = pytest.mark.cluster

NAME = f"{RELEASE}-diffusion-cascade"
NOT_DONE_HERE = {"CascadePlannerStalled", "CascadeApiServerAway", "CascadeRoutersDisagree", "CascadeReplicaEjected"}
"""Alerts for what takes minutes, would take the control plane from other tests, or needs a broken network (a worker
that is killed leaves the plan before it counts as ejected). tests/chart has them fire."""
OF_TROUBLE = 'status!="True"'
"""What has no series until something goes wrong."""


@pytest.fixture(scope="module")
def chart(installation: Installation) -> list[Object]:
    """What the chart makes of the installed release where the Prometheus Operator is."""
    return render(next(iter(programs().values())), *MONITORING, "--namespace", installation.namespace)


@pytest.fixture(scope="module")
def panels(chart: list[Object]) -> dict[str, list[str]]:
    text = of_kind(chart, "ConfigMap")[f"{NAME}-dashboard"]["data"]["diffusion-cascade.json"]
    return panel_queries(json.loads(text))


@pytest.fixture(scope="module")
def groups(chart: list[Object]) -> list[Object]:
    found: list[Object] = of_kind(chart, "PrometheusRule")[NAME]["spec"]["groups"]
    return found


@pytest.fixture(scope="module")
def prometheus(
    installation: Installation,
    chart: list[Object],
    groups: list[Object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """Scrapes the release as its ServiceMonitor says, and evaluates its rules."""
    monitor = of_kind(chart, "ServiceMonitor")[NAME]
    services = list(of_kind(chart, "Service").values())
    scrape = scrape_of(monitor, services, lambda labels: installation.cluster.pods(installation.namespace, **labels))
    assert len(scrape) == 2, "operator and routers"
    with Prometheus(tmp_path_factory.mktemp("prometheus"), scrape=scrape, groups=groups).running() as server:
        yield server


def test_panels_and_alerts_have_data_and_trouble_raises_alerts(
    installation: Installation,
    prometheus: Prometheus,
    panels: dict[str, list[str]],
    groups: list[dict[str, Any]],
    tenant: str,
) -> None:
    def show_data(*, trouble: bool) -> None:
        every = [query for queries in panels.values() for query in queries]
        for query in every:
            if trouble or OF_TROUBLE not in query:
                wait_for(lambda query=query: prometheus.values(query), what=query)  # type: ignore[misc]

    alerted: set[str] = set()

    def raises(name: str, *, since: float, of: str = "") -> None:
        installation.expect(lambda: prometheus.has_alerted(name, since=since, of=of), what=f"{name} {of}")
        alerted.add(name)

    shapes = f"{tenant}/shapes"
    cascade = patient_documents(light_ms=150, heavy_ms=450, accelerator_class="test-gpu", objective={"latency": "12s"})
    installation.apply(with_replicas(cascade, light=1, heavy=2), namespace=tenant)
    installation.wait_pools(tenant, light=1, heavy=2)
    installation.wait_served(tenant)
    with installation.load(rate=4, model=f"{tenant}.shapes"):
        show_data(trouble=False)
        wait_for(lambda: not prometheus.alerted(), what="nothing to be wrong")
        alerts = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
        for name in NOT_DONE_HERE:
            assert prometheus.values(compared(alerts[name])), name

        begun = time.time()
        refuse(installation, f"{tenant}.shapes", times=30)
        raises("CascadeRefusesWork", since=begun, of=shapes)
        raises("CascadeObjectiveMissed", since=begun, of=shapes)

        without_profile = patient_documents(light_ms=150, heavy_ms=450, name="lonely")[:1]
        assert without_profile[0]["kind"] == "DiffusionCascade"
        begun = time.time()
        installation.apply(without_profile, namespace=tenant)
        raises("CascadeNotAccepted", since=begun, of=f"{tenant}/lonely")
        raises("CascadeNotReady", since=begun, of=f"{tenant}/lonely")
        show_data(trouble=True)

    begun = time.time()
    installation.redis.kill()
    raises("CascadeStoreAway", since=begun)
    installation.redis.start()

    (operator,) = installation.pods("operator")
    (container,) = installation.agent.containers(installation.namespace, operator["metadata"]["name"])
    begun = time.time()
    # One that is killed may be back before the next scrape.
    container.command.suspend()
    raises("CascadeComponentDown", since=begun)
    container.kill()
    installation.wait_ready("operator")
    wait_for(lambda: "CascadeComponentAbsent" not in prometheus.alerted(), what="every component to be there")
    begun = time.time()
    installation.stop_routers()
    raises("CascadeComponentAbsent", since=begun)

    assert alerted == set(alerts) - NOT_DONE_HERE


def refuse(installation: Installation, model: str, *, times: int) -> None:
    """Requests whose deadline is shorter than the profile says that any image takes."""
    client = triton.InferenceServerClient(installation.routers[0])
    for _ in range(times):
        with contextlib.suppress(triton.InferenceServerException):
            client.infer(model, inputs_of(EASY, seed=1), parameters={"deadline_ms": 100})
    client.close()

"""A cascade that nobody asks has no pods; a request that has time brings them back, and gets its image."""

from __future__ import annotations

import pytest

from support.installation import Installation
from support.kube_api import Object
from support.patience import patient_documents

pytestmark = pytest.mark.cluster
DOCUMENTS = patient_documents(
    light_ms=150,
    heavy_ms=600,
    objective={"latency": "12s"},
    capacity={"accelerators": {"cpu": 2}},
    policy={"scaleToZeroAfter": "10s"},
)


def test_an_idle_cascade_goes_to_zero_and_comes_back_for_a_request(installation: Installation, tenant: str) -> None:
    installation.apply(DOCUMENTS, namespace=tenant)
    installation.wait_condition(tenant, "Ready")
    parked = installation.expect(lambda: _parked(installation, tenant), what="the cascade to be parked")
    assert parked["reason"] == "Parked"
    assert set(installation.deployments(tenant).values()) == {0}

    made = installation.ask(model=f"{tenant}.shapes", parameters={"deadline_ms": 120_000})

    assert made.image.any()
    assert installation.replicas(tenant)
    assert installation.condition(tenant, "Ready")["reason"] != "Parked"


def _parked(installation: Installation, tenant: str) -> Object | None:
    """The condition Ready, once nothing runs."""
    ready = installation.condition(tenant, "Ready")
    return ready if ready.get("reason") == "Parked" and not installation.replicas(tenant) else None

"""A cascade without requests has no pods; a request with enough time brings them back, and gets its image."""

from __future__ import annotations

import pytest

from support.installation import Installation
from support.patience import patient_documents

pytestmark = pytest.mark.cluster
DOCUMENTS = patient_documents(
    light_ms=150,
    heavy_ms=600,
    objective={"latency": "12s"},
    policy={"scaleToZeroAfter": "10s"},
)


def test_an_idle_cascade_goes_to_zero_and_comes_back_for_a_request(installation: Installation, tenant: str) -> None:
    installation.apply(DOCUMENTS, namespace=tenant)
    installation.expect(lambda: _parked(installation, tenant), what="the cascade to be parked")
    before = _generations(installation, tenant)
    assert before, "it ran, and was then scaled down"

    assert installation.ask(model=f"{tenant}.shapes").image.any()

    assert _generations(installation, tenant) > before, "it was scaled up for that"


def _parked(installation: Installation, tenant: str) -> bool:
    """Whether nothing runs, nothing is wanted to, and the cascade says why."""
    wanted = installation.deployments(tenant).values()
    reason = installation.condition(tenant, "Ready").get("reason")
    return reason == "Parked" and not any(wanted) and not installation.replicas(tenant)


def _generations(installation: Installation, tenant: str) -> int:
    """How often the specs of the pools were written so far."""
    pools = installation.cluster.api.items(f"/apis/apps/v1/namespaces/{tenant}/deployments")
    return sum(pool["metadata"]["generation"] for pool in pools)

"""Two cascades compete for eight accelerators: at no time does the cluster exceed a ceiling."""

from __future__ import annotations

import pytest

from support.installation import Installation
from support.kube import GPU, is_ready
from support.kube_api import History, Object
from support.patience import patient_documents
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.cluster
ALL, EACH = 8, 6


def documents(name: str) -> list[Object]:
    return patient_documents(
        light_ms=400,
        heavy_ms=1500,
        name=name,
        accelerator_class="test-gpu",
        objective={"latency": "12s"},
        workers=EACH,
    )


def test_ceilings_hold_at_every_instant_while_two_cascades_compete(installation: Installation, tenant: str) -> None:
    with History(installation.cluster.api, "/api/v1/pods").recorded() as history:
        for name in ("first", "second"):
            installation.apply(documents(name), namespace=tenant)
        for name in ("first", "second"):
            installation.wait_condition(tenant, "Ready", name=name)
        with installation.load(rate=3, model=f"{tenant}.first"):
            installation.expect(
                lambda: _ready(installation, tenant, "first") == EACH,
                within_s=3 * PATIENCE_S,
                what="the first at its ceiling",
            )
            with installation.load(rate=3, model=f"{tenant}.second", router=1):
                installation.expect(
                    lambda: _ready(installation, tenant, "second") >= ALL / 2 - 1,
                    within_s=3 * PATIENCE_S,
                    what="the second's share",
                )
    peaks = history.most_in_use(tenant, resource=GPU)
    print(f"most accelerators in use at once: {dict(peaks)}")
    assert peaks["first"] == EACH
    assert max(peaks["first"], peaks["second"]) <= EACH
    assert peaks["all"] <= ALL


def _ready(installation: Installation, tenant: str, name: str) -> int:
    return sum(map(is_ready, installation.replicas(tenant, cascade=name)))

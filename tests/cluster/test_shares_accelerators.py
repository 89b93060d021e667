"""Two cascades compete for eight accelerators: no ceiling is passed at any instant of the cluster's own history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from support.installation import Installation
from support.kube import GPU, is_ready
from support.kube_api import Change, History, Object
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
    peaks = most_in_use(history.changes, tenant)
    print(f"most accelerators in use at once: {dict(peaks)}")
    assert peaks["first"] == EACH
    assert max(peaks["first"], peaks["second"]) <= EACH
    assert peaks["all"] <= ALL


def most_in_use(changes: Iterable[Change], namespace: str) -> Counter[str]:
    """The most accelerators that the pods of each cascade, and of all, held or asked for at any instant."""
    held: dict[str, str] = {}
    peaks: Counter[str] = Counter()
    for change in changes:
        pod = change.object
        metadata = pod["metadata"]
        if metadata["namespace"] != namespace:
            continue
        asks = GPU in (pod["spec"]["containers"][0].get("resources") or {}).get("requests", {})
        over = change.kind == "DELETED" or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        held.pop(metadata["uid"], None)
        if asks and not over:
            held[metadata["uid"]] = metadata["labels"]["diffusioncascade.io/cascade"]
        now = Counter(held.values())
        now["all"] = now.total()
        peaks |= now
    return peaks


def _ready(installation: Installation, tenant: str, name: str) -> int:
    return sum(map(is_ready, installation.replicas(tenant, cascade=name)))

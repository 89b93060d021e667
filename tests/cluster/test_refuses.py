"""A wrong spec or profile changes nothing that runs, and the cascade's status names the field."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from support.installation import Installation
from support.kube_api import Object
from support.patience import patient_documents, with_replicas

pytestmark = pytest.mark.cluster
DOCUMENTS = with_replicas(
    patient_documents(light_ms=150, heavy_ms=600, objective={"latency": "12s"}),
    light=1,
    heavy=1,
)
KINDS = {"DiffusionCascade": "diffusioncascades", "CascadeProfile": "cascadeprofiles"}


def _min_above_max(spec: Object) -> None:
    spec["workers"][0] |= {"min": 3, "max": 2}


def _unknown_metric(spec: Object) -> None:
    spec["objectiveMetric"] = "beauty"


@pytest.mark.parametrize(
    ("kind", "spoil", "field"),
    [
        pytest.param("DiffusionCascade", _min_above_max, "workers", id="spec"),
        pytest.param("CascadeProfile", _unknown_metric, "objectiveMetric", id="profile"),
    ],
)
def test_what_is_bad_changes_nothing_and_is_named(
    installation: Installation, tenant: str, kind: str, spoil: Callable[[Object], None], field: str
) -> None:
    installation.apply(DOCUMENTS, namespace=tenant)
    installation.wait_pools(tenant, light=1, heavy=1)
    installation.wait_served(tenant)
    before = {pod["metadata"]["uid"] for pod in installation.replicas(tenant)}
    path = f"/apis/diffusioncascade.io/v1alpha1/namespaces/{tenant}/{KINDS[kind]}/shapes"
    good = installation.cluster.api.get(path)["spec"]
    bad = installation.cluster.api.get(path)["spec"]
    spoil(bad)
    refused = installation.cluster.kubectl(
        "patch",
        KINDS[kind],
        "shapes",
        "--namespace",
        tenant,
        "--type=merge",
        "--patch",
        _json({"spec": bad}),
        check=False,
    )
    if "patched" in refused:
        # An API server without CEL lets it in: then the operator says so.
        accepted = installation.expect(lambda: _not_accepted(installation, tenant), what="the complaint")
        assert field in accepted["message"]
    else:
        assert field in refused
    assert {pod["metadata"]["uid"] for pod in installation.replicas(tenant)} == before
    assert installation.ask(model=f"{tenant}.shapes").image.any()

    installation.cluster.api.patch(path, {"spec": good})
    installation.wait_condition(tenant, "Accepted")
    assert {pod["metadata"]["uid"] for pod in installation.replicas(tenant)} == before


def test_the_api_server_refuses_what_has_no_meaning(installation: Installation, tenant: str) -> None:
    documents = patient_documents(light_ms=150, heavy_ms=600, objective={"latency": "soon"})
    with pytest.raises(AssertionError, match=r"spec\.objective\.latency"):
        installation.apply(documents, namespace=tenant)


def _not_accepted(installation: Installation, tenant: str) -> Object | None:
    held = installation.condition(tenant, "Accepted")
    return held if held.get("status") == "False" else None


def _json(value: Object) -> str:
    return json.dumps(value)

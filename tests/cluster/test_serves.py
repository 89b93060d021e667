"""From `helm install` and `kubectl apply` to an image, under the chart's rights and no others."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.installation import Installation
from support.kube_api import Api, ApiError
from support.triton import shapes_manifest

pytestmark = pytest.mark.cluster
COLUMNS = ["NAME", "READY", "REASON", "CHAIN", "REPLICAS", "SLO", "COST/H", "AGE"]


@pytest.fixture(scope="module")
def first_image_s(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[float]:
    """The example as it is; seconds from its application to the first image."""
    example = tmp_path_factory.mktemp("example") / "shapes.yaml"
    example.write_text(shapes_manifest(hosting="shared"))
    begun = time.monotonic()
    installation.cluster.kubectl("apply", "-f", str(example))
    try:
        installation.expect(installation.answers, what="the first image")
        took_s = time.monotonic() - begun
        installation.wait_served("default")
        yield took_s
    finally:
        installation.remove_cascades("default")
        installation.cluster.kubectl("delete", "-f", str(example), "--ignore-not-found")


def test_an_applied_cascade_answers(first_image_s: float) -> None:
    print(f"from apply to the first image: {first_image_s:.1f} s")


@pytest.mark.usefixtures("first_image_s")
def test_every_router_answers_a_triton_client(installation: Installation) -> None:
    for router, address in enumerate(installation.routers):
        made = installation.ask(router=router)
        assert made.image.shape[-3:] == (32, 32, 3), address
        assert made.variant in ("shapes-light", "shapes-heavy")


@pytest.mark.usefixtures("first_image_s")
def test_workers_have_a_policy_wherever_they_are(installation: Installation) -> None:
    """The operator serves the whole cluster here, so the chart cannot know where; nothing enforces policies here."""
    policies = installation.cluster.api.items("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies")
    chosen = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies]
    pods = installation.cluster.pods("default", **{"app.kubernetes.io/component": "model"})
    assert pods
    for pod in pods:
        assert any(labels.items() <= pod["metadata"]["labels"].items() for labels in chosen), pod["metadata"]["name"]


@pytest.mark.usefixtures("first_image_s")
def test_a_policy_that_somebody_deletes_comes_back(installation: Installation) -> None:
    policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    (before,) = installation.cluster.api.items(policies)
    name = before["metadata"]["name"]
    installation.cluster.kubectl("delete", "networkpolicy", name, "--namespace", "default")
    after = installation.expect(lambda: installation.cluster.api.find(f"{policies}/{name}"), what="the policy")
    assert after["spec"] == before["spec"]


@pytest.mark.usefixtures("first_image_s")
def test_kubectl_shows_at_a_glance_what_runs(installation: Installation) -> None:
    def look() -> dict[str, str] | None:
        header, row = installation.cluster.kubectl("get", "dcas", "--namespace", "default").splitlines()
        assert header.split() == COLUMNS
        cells = dict(zip(COLUMNS, row.split(), strict=False))
        return cells if cells["READY"] == "True" else None

    shown = installation.expect(look, what="the cascade to be shown as ready")
    assert shown["NAME"] == "shapes"
    assert shown["SLO"] == "2s"
    assert "shapes-" in shown["CHAIN"]


@pytest.mark.usefixtures("first_image_s")
def test_the_operator_needs_no_more_than_the_charts_role_and_has_no_more(installation: Installation) -> None:
    kubeconfig = installation.cluster.account_kubeconfig(installation.namespace, installation.account)
    api = Api(kubeconfig)
    assert api.items("/apis/diffusioncascade.io/v1alpha1/diffusioncascades"), "what it needs it may"
    outside = ["/api/v1/namespaces/kube-system/secrets", "/apis/rbac.authorization.k8s.io/v1/clusterroles"]
    for path in outside:
        with pytest.raises(ApiError) as refusal:
            api.get(path)
        assert refusal.value.status == 403
    with pytest.raises(ApiError) as refusal:
        api.create("/api/v1/namespaces/default/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}})
    assert refusal.value.status == 403

    if installation.cluster.plane is not None:
        asked = installation.requests()
        # kubectl-like requests above carry this library's name.
        own = [entry for entry in asked if "python-httpx" not in entry.get("userAgent", "")]
        refused = {entry["requestURI"] for entry in own if entry["responseStatus"]["code"] == 403}
        assert own
        assert not refused, "the operator asks for nothing that its role does not give"

"""Pools follow the load: more replicas when it rises, fewer when it falls, and no request fails meanwhile."""

from __future__ import annotations

import time

import pytest
import tritonclient.grpc as triton

from support.installation import Installation, variant_of
from support.kube import is_ready
from support.kube_api import Object
from support.patience import patient_documents
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.cluster

OBJECTIVE_S = 8
INTERVAL_S = 10 * OBJECTIVE_S / 12
"""Between two plans that may change pools: ten ticks of a twelfth of the objective."""
MOST = 4
DOCUMENTS = patient_documents(
    light_ms=150,
    heavy_ms=600,
    # It has a price: accelerators that cost nothing are kept.
    accelerator_class="test-gpu",
    objective={"latency": f"{OBJECTIVE_S}s"},
    workers=MOST,
)


def test_pools_follow_the_load_without_a_failed_request(installation: Installation, tenant: str) -> None:
    installation.apply(DOCUMENTS, namespace=tenant)
    installation.wait_served(tenant)
    with installation.load(rate=0.5, model=f"{tenant}.shapes") as calm:
        installation.expect(lambda: calm.answered > 5, what="a few images")
        few = installation.expect(
            lambda: _settled(installation, tenant, below=MOST), within_s=2 * PATIENCE_S, what="pools for a calm load"
        )
    assert calm.unfailed, calm.result

    with installation.load(rate=6, model=f"{tenant}.shapes") as busy:
        begun = time.monotonic()
        installation.expect(
            lambda: sum(installation.deployments(tenant).values()) > sum(few.values()),
            what="more replicas to be asked for",
        )
        took_s = time.monotonic() - begun
        print(f"from the rise of the load to more replicas: {took_s:.1f} s, interval {INTERVAL_S:.1f} s")
        many = installation.expect(
            lambda: _settled(installation, tenant, above=sum(few.values())), what="them to be ready"
        )
        installation.expect(
            lambda: all(map(_has_served, installation.replicas(tenant))), what="traffic on every replica"
        )
    assert busy.unfailed, busy.result

    with installation.load(rate=0.5, model=f"{tenant}.shapes", router=1) as falling:
        installation.expect(
            lambda: _settled(installation, tenant, below=sum(many.values())),
            within_s=2 * PATIENCE_S,
            what="fewer replicas",
        )
    assert falling.unfailed, falling.result


def _settled(installation: Installation, tenant: str, *, above: int = 0, below: int = 1000) -> dict[str, int] | None:
    """Replicas by variant, when all that are asked for are ready and no other is there."""
    wanted = installation.deployments(tenant)
    pods = installation.replicas(tenant)
    settled = len(pods) == sum(wanted.values()) and all(map(is_ready, pods))
    return wanted if settled and above < len(pods) < below else None


def _has_served(pod: Object) -> bool:
    """Whether a replica has made an image for somebody: probes alone ask for one at a time, and not as often."""
    address = f"{(pod.get('status') or {}).get('podIP')}:8001"
    try:
        with triton.InferenceServerClient(address) as client:
            found = client.get_inference_statistics(variant_of(pod), client_timeout=PATIENCE_S)
            return bool(found.model_stats[0].inference_count > 3)
    except triton.InferenceServerException:
        return False

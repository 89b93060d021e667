"""What kopf hears of the cluster, passed on: every event goes into the mirror, and the mirror wakes the planner.

There is nothing to do for a single event: the planner looks at everything there is, whatever woke it.
"""

from __future__ import annotations

from typing import Any, Final

import kopf

from cascade_api.names import GROUP, VERSION

from .clusters.kubernetes.mirror import Mirror

RECONNECT_S: Final = 300
NAMES: Final = (
    (GROUP, VERSION, "diffusioncascades"),
    (GROUP, VERSION, "cascadeprofiles"),
    ("apps", "v1", "deployments"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("", "v1", "pods"),
    ("", "v1", "nodes"),
)


def register(registry: kopf.OperatorRegistry, mirror: Mirror) -> None:
    """Watch all kinds that matter, as far as they may be read."""
    kopf.on.login(registry=registry)(log_in)
    kopf.on.startup(registry=registry)(configure)
    for group, version, plural in NAMES:
        if not mirror.watches(plural):
            continue
        shelf = mirror.shelf_of(plural)

        async def see(event: kopf.RawEvent, shelf: Any = shelf, **_: Any) -> None:
            shelf.see(event)

        labels = {shelf.selector: kopf.PRESENT} if shelf.selector else None
        kopf.on.event(group, version, plural, registry=registry, id=plural, labels=labels)(see)


async def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As the official client does: the pod's service account, else KUBECONFIG."""
    return kopf.login_via_client(**arguments)


async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Events are posted by the planner's own words; a server that is away is asked again every second or two."""
    settings.posting.enabled = False
    settings.watching.server_timeout = RECONNECT_S
    settings.watching.client_timeout = RECONNECT_S + 30
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = [1, 1, 2, 2, *[3] * 1200]

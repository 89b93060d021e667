"""Passes the events that kopf watches to the mirror, which wakes the planner.

No event is handled by itself: whatever woke the planner, it looks at the whole state.
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
    (GROUP, VERSION, "workerpools"),
    ("apps", "v1", "deployments"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("", "v1", "pods"),
    ("", "v1", "nodes"),
)


def register(registry: kopf.OperatorRegistry, mirror: Mirror) -> None:
    """Watch all relevant kinds that the operator may read."""
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
    """Log in as the official client does: by the pod's service account, or else by KUBECONFIG."""
    return kopf.login_via_client(**arguments)


async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Configure kopf: it posts no Events of its own, and asks again every few seconds if the API server is away."""
    settings.posting.enabled = False
    settings.watching.server_timeout = RECONNECT_S
    settings.watching.client_timeout = RECONNECT_S + 30
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = [1, 1, 2, 2, *[3] * 1200]

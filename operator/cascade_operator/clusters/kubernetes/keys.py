"""The operator's own secret, from which the keys of all agents are derived (`manifests.agent_keys`).

It is in one Secret beside the operator, which the chart makes without an entry. The operator may read and fill this one
and no other. So nobody has to think of a key, and installing the chart again does not change it.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any, Final

from .. import ClusterFailed
from .api import CONFLICT, SECRETS, ApiRefused, KubernetesApi

ENTRY: Final = "secret"


async def own_secret(api: KubernetesApi, namespace: str, name: str) -> str:
    """The operator's secret, which is made if there is none yet; raises ClusterFailed."""
    there = await api.get(SECRETS, namespace, name)
    if there is None:
        raise ClusterFailed(
            f"there is no Secret {namespace}/{name} for the keys of agents: make an empty one, as the chart does"
        )
    kept = (there.get("data") or {}).get(ENTRY)
    if kept is None:
        made = base64.b64encode(secrets.token_urlsafe(32).encode()).decode()
        patch: dict[str, Any] = {
            # Of two operators that find it empty, the second one is refused, and reads what the first has written.
            "metadata": {"resourceVersion": there["metadata"]["resourceVersion"]},
            "data": {ENTRY: made},
        }
        try:
            kept = (await api.merge(SECRETS, namespace, name, patch))["data"][ENTRY]
        except ApiRefused as refused:
            if refused.status != CONFLICT:
                raise
            return await own_secret(api, namespace, name)
    return base64.b64decode(kept).decode()

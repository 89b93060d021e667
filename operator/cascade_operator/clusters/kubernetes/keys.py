"""The operator's own secret, the keys of all agents that are derived from it (`manifests.agent_keys`), and the Secrets
that have these keys where workers are.

The operator's own secret is in one Secret beside it, which the chart makes without an entry. The operator may read and
fill this one and no other. So nobody has to think of a key, and installing the chart again does not change it.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Final

from ...manifests.agent_keys import AgentKey, agent_key, key_secret
from ...manifests.naming import Owner
from ...snapshot import PoolRef
from .. import ClusterFailed
from .api import CONFLICT, SECRETS, ApiRefused, KubernetesApi
from .objects import Pod

ENTRY: Final = "secret"
AGAIN_S: Final = 30.0
"""A pod that does not start for so long may lack the Secret with the key of its agent, which is then made again."""


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


class PoolKeys:
    """The keys of the agents of pools, and the Secrets that have them, which are made and never read."""

    def __init__(self, api: KubernetesApi, *, clock: Callable[[], float]) -> None:
        """``clock`` gives Unix seconds."""
        self.secret = ""
        """The operator's own secret; without it no key is known."""
        self._api = api
        self._clock = clock
        self._made_s: dict[tuple[str, str], float] = {}

    def of(self, pool: PoolRef, *, owner: Owner, accelerator_class: str) -> AgentKey:
        """The key of a pool; raises ClusterFailed."""
        if not self.secret:
            raise ClusterFailed("the operator's own secret is not known yet")
        return agent_key(self.secret, pool, uid=owner.uid, accelerator_class=accelerator_class)

    async def keep(self, pool: PoolRef, *, accelerator_class: str, owner: Owner, pods: Iterable[Pod]) -> None:
        """See to it that the Secret of a pool is there; its ``pods`` show whether it may have been deleted."""
        key = self.of(pool, owner=owner, accelerator_class=accelerator_class)
        name, now = (pool.namespace, key.secret), self._clock()
        made_s, last_s = self._made_s.get(name), now - AGAIN_S
        stuck = any(pod.node and not pod.ip and pod.created_s < last_s for pod in pods)
        if made_s is not None and not (stuck and made_s < last_s):
            return
        try:
            await self._api.create(SECRETS, key_secret(pool, key, owner=owner, accelerator_class=accelerator_class))
        except ApiRefused as refused:
            if refused.status != CONFLICT:
                raise
        self._made_s[name] = now

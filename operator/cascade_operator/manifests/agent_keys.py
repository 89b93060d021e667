"""The keys that workers' agents ask for: nobody but the operator tells an agent what to host.

Every pool has a key of its own, which is derived from one secret of the operator. So the operator makes the pool's
Secret, and knows what is in it, without ever reading a Secret where workers are. The name of the Secret says which key
it has, and it can never be changed: another secret of the operator gives it another name, and restarts the workers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, Final

from ..snapshot import PoolRef
from .naming import Owner, pool_labels, pool_object_name

KEY_FILE: Final = "key"
"""The entry of a pool's Secret, and so the name of the file in its pods."""


@dataclass(frozen=True)
class AgentKey:
    """The key of one pool's agents, and the name of the Secret that has it."""

    key: str = field(repr=False)
    secret: str


def agent_key(secret: str, pool: PoolRef, *, uid: str, accelerator_class: str) -> AgentKey:
    """The key of a pool that belongs to the resource with this ``uid``; ``secret`` is the operator's own.

    The uid is part of it, so that a resource that is made again under the same name finds no Secret that is being
    removed with the first one.
    """
    message = f"agent/{pool.namespace}/{pool.cascade or ''}/{pool.name}/{uid}"
    key = hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()
    name = pool_object_name(pool, accelerator_class=accelerator_class)
    return AgentKey(key, f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}")


def key_secret(pool: PoolRef, key: AgentKey, *, owner: Owner, accelerator_class: str) -> dict[str, Any]:
    """The Secret of a pool's agents, which the cluster removes together with its owner."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": key.secret,
            "namespace": pool.namespace,
            "labels": pool_labels(pool, accelerator_class=accelerator_class),
            "ownerReferences": [owner.reference],
        },
        "type": "Opaque",
        "immutable": True,
        "data": {KEY_FILE: base64.b64encode(key.key.encode()).decode()},
    }

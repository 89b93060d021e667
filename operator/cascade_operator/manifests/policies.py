"""The NetworkPolicy of a cascade's own pods, or of a WorkerPool's: who may reach them, and what they may reach.

The operator makes it together with the pods, since only the operator knows in which namespaces they are. Its rules are
the same for all pods, and come from the operator's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .naming import ANNOTATION_CONTENT, Owner, digest_of


def policy_name(owner: Owner) -> str:
    """Name of the NetworkPolicy of all pods of an owner; a cascade and a WorkerPool may have the same name."""
    return f"{owner.name}-pool" if owner.shared else f"{owner.name}-workers"


def worker_policy(owner: Owner, *, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The NetworkPolicy of all pods of an owner; ``spec`` is its spec without the pod selector."""
    whole = {**spec, "podSelector": {"matchLabels": owner.selected}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": policy_name(owner),
            "namespace": owner.namespace,
            "labels": owner.labels,
            "annotations": {ANNOTATION_CONTENT: digest_of(whole)},
            "ownerReferences": [owner.reference],
        },
        "spec": whole,
    }

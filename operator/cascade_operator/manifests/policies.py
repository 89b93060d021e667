"""A cascade's NetworkPolicy: who may reach its pods, and what they may reach.

The operator makes it together with the pods, since only the operator knows in which namespaces they are. Its rules are
the same for all cascades, and come from the operator's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade_api.names import LABEL_CASCADE, CascadeRef

from .naming import ANNOTATION_CONTENT, common_labels, digest_of, owner_reference


def policy_name(ref: CascadeRef) -> str:
    """Name of the NetworkPolicy of a cascade's pods."""
    return f"{ref.name}-workers"


def worker_policy(ref: CascadeRef, *, uid: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The NetworkPolicy of a cascade's pods; ``spec`` is its spec without the pod selector."""
    whole = {**spec, "podSelector": {"matchLabels": {LABEL_CASCADE: ref.name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": policy_name(ref),
            "namespace": ref.namespace,
            "labels": common_labels(ref.name),
            "annotations": {ANNOTATION_CONTENT: digest_of(whole)},
            "ownerReferences": [owner_reference(ref, uid)],
        },
        "spec": whole,
    }

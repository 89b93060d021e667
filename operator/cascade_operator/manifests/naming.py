"""Names, labels and annotations of the objects that the operator makes on a cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.names import API_VERSION, GROUP, LABEL_CASCADE, LABEL_CLASS, LABEL_POOL, CascadeRef

from ..snapshot import PoolRef

ANNOTATION_REPLICAS: Final = f"{GROUP}/replicas"
"""On a pool's Deployment: the replicas that the operator wants. So it notices if somebody else scales it."""
ANNOTATION_STOPPING: Final = f"{GROUP}/stopping"
"""On a pool's Deployment: the pods whose removal is already counted in its replicas, separated by commas."""
ANNOTATION_COMING: Final = f"{GROUP}/coming"
"""On a pool's Deployment: the weights that its newest workers are to host first, a set for each worker in the order of
their starts. Sets are separated by commas, and the digests in a set by dots."""
ANNOTATION_HOSTS: Final = f"{GROUP}/hosts"
"""On a pod: the digests of the weights that its agent is told to host, separated by commas."""
ANNOTATION_VARIANTS: Final = f"{GROUP}/variants"
"""On a pod: the same for people, by the names of the variants that it can serve. In a WorkerPool the name of the
cascade stands before that of its variant, as in `icons/light`."""
ANNOTATION_DRAINING: Final = f"{GROUP}/draining-since"
"""On a pod: the time since which it gets no new work (RFC 3339)."""
ANNOTATION_CONTENT: Final = f"{GROUP}/content"
"""On every object of the operator: a digest of its wanted content, except the number of replicas."""
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
FIRST_TO_GO: Final = "-1000"
"""The deletion cost of a pod that is to go; others have 0."""

LONGEST_POOL_NAME: Final = 46
"""Longest name of a pool. With what Deployment and ReplicaSet append, pod names stay within the 63 of host names."""


def pool_object_name(pool: PoolRef, *, accelerator_class: str) -> str:
    """The name of a pool's Deployment: readable, at most 46 characters, and unique in the namespace."""
    digest = hashlib.sha256(f"{pool.cascade or ''}/{pool.name}/{accelerator_class}".encode()).hexdigest()[:6]
    whole = pool.name if pool.cascade is None else f"{pool.cascade}-{pool.name}"
    return f"{whole[: LONGEST_POOL_NAME - len(digest) - 1].rstrip('-')}-{digest}"


def document_name(ref: CascadeRef) -> str:
    """Name of the ConfigMap with a cascade's document."""
    return f"{ref.name}-cascade"


def pool_labels(pool: PoolRef, *, accelerator_class: str) -> dict[str, str]:
    """Labels of a pool's Deployment and pods. Those of a pool that cascades share name no cascade."""
    return {**common_labels(pool.cascade or ""), LABEL_POOL: pool.name, LABEL_CLASS: accelerator_class}


def common_labels(cascade: str) -> dict[str, str]:
    """The labels of all objects that are made for a cascade."""
    return {
        "app.kubernetes.io/name": "diffusion-cascade",
        "app.kubernetes.io/component": "model",
        "app.kubernetes.io/managed-by": "diffusion-cascade-operator",
        LABEL_CASCADE: cascade,
    }


@dataclass(frozen=True)
class Owner:
    """The resource to which pools belong: a cascade, or the WorkerPool itself if cascades share it."""

    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def cascade(cls, ref: CascadeRef, uid: str) -> Owner:
        """A cascade, which owns its own pools."""
        return cls("DiffusionCascade", ref.namespace, ref.name, uid)

    @classmethod
    def worker_pool(cls, pool: PoolRef, uid: str) -> Owner:
        """A WorkerPool, which cascades share."""
        return cls("WorkerPool", pool.namespace, pool.name, uid)

    @property
    def shared(self) -> bool:
        """Whether it is a WorkerPool."""
        return self.kind == "WorkerPool"

    @property
    def selected(self) -> dict[str, str]:
        """The labels by which all of its pods are selected, and no others."""
        return {LABEL_CASCADE: "", LABEL_POOL: self.name} if self.shared else {LABEL_CASCADE: self.name}

    @property
    def labels(self) -> dict[str, str]:
        """The labels of objects that are made for all of its pools together."""
        return {**common_labels(""), **self.selected}

    @property
    def reference(self) -> dict[str, Any]:
        """The owner reference by which the cluster removes an object together with it."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


def digest_of(content: Mapping[str, Any]) -> str:
    """A short digest of JSON content; key order does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

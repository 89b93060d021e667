"""What the driver needs to know about Pods, Nodes and Deployments, read from the API's JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from cascade_api.names import LABEL_CASCADE, LABEL_CLASS, LABEL_POOL, LABEL_VARIANT
from cascade_api.quantities import quantity

from ...manifests.naming import (
    ANNOTATION_COMING,
    ANNOTATION_CONTENT,
    ANNOTATION_DRAINING,
    ANNOTATION_HOSTS,
    ANNOTATION_REPLICAS,
    ANNOTATION_STOPPING,
)
from ...snapshot import PoolRef

Key = tuple[str, str]
"""Namespace (empty for Nodes) and name."""

HOPELESS: Final = frozenset(
    {
        "CrashLoopBackOff",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons for a container to wait that do not disappear by themselves."""
GOING: Final = frozenset(
    {
        "karpenter.sh/disrupted",
        "ToBeDeletedByClusterAutoscaler",
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/scheduled-maintenance",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "cloud.google.com/impending-node-termination",
        "node.cloudprovider.kubernetes.io/shutdown",
    }
)
"""Taints by which autoscalers and clouds announce that a Node is going to be deleted or reclaimed."""


@dataclass(frozen=True)
class Seen:
    """An object as it was read; two readings that differ only in the version are equal."""

    key: Key
    uid: str
    version: int = field(compare=False)


@dataclass(frozen=True)
class Pod(Seen):
    """A pod; ``pool`` is None, and ``accelerator_class`` empty, for pods that are not workers.

    ``told`` has the weights that its agent is told to host, by digest; None: it was told nothing yet.

    Times are Unix seconds; ``ready_since_s`` is when ``ready`` last changed. ``unheard`` means that the containers were
    ready when their kubelet last reported, and that the pod counts as not ready only because the kubelet is silent.
    ``problem`` says why the pod does not start, if waiting does not help.
    """

    node: str = ""
    ip: str = ""
    created_s: float = 0.0
    ready: bool = False
    ready_since_s: float = 0.0
    unheard: bool = False
    terminating_s: float | None = None
    finished: bool = False
    unschedulable_s: float | None = None
    problem: str = ""
    draining_s: float | None = None
    told: tuple[str, ...] | None = None
    pool: PoolRef | None = None
    accelerator_class: str = ""
    requests: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Its IP as it stands in an address; empty if it has none yet."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip


@dataclass(frozen=True)
class Node(Seen):
    """A Node; ``ready``: its kubelet reports; ``schedulable``: new pods may be placed on it; ``going``: it will soon be
    taken away (`GOING`)."""

    labels: Mapping[str, str]
    allocatable: Mapping[str, Decimal]
    ready: bool
    schedulable: bool
    going: bool = False


@dataclass(frozen=True)
class Deployment(Seen):
    """A pool's Deployment; ``wanted`` is the number that the operator last asked for, and ``raw`` the object itself.

    ``coming`` has what its newest workers are to host first. ``outdated``: an operator of an earlier version made it,
    for one variant.
    """

    generation: int
    pool: PoolRef
    accelerator_class: str
    wanted: int
    stopping: frozenset[str]
    coming: tuple[tuple[str, ...], ...]
    outdated: bool
    content: str
    terminating: bool
    raw: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)


def read_pod(raw: Mapping[str, Any]) -> Pod:
    """A pod from the API's JSON."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    annotations = meta.get("annotations") or {}
    told = annotations.get(ANNOTATION_HOSTS)
    return Pod(
        **_identity(meta),
        node=spec.get("nodeName") or "",
        ip=status.get("podIP") or "",
        created_s=seconds(meta.get("creationTimestamp")) or 0.0,
        ready=ready.get("status") == "True",
        ready_since_s=seconds(ready.get("lastTransitionTime")) or 0.0,
        unheard=ready.get("status") == "False" and _containers_ready(status),
        terminating_s=seconds(meta.get("deletionTimestamp")),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        unschedulable_s=seconds(scheduled.get("lastTransitionTime")) if unschedulable else None,
        problem=_problem(status),
        draining_s=seconds(annotations.get(ANNOTATION_DRAINING)),
        told=None if told is None else _listed(told),
        pool=_pool(meta) if LABEL_POOL in labels else None,
        accelerator_class=labels.get(LABEL_CLASS, "") if LABEL_POOL in labels else "",
        requests=_requests(spec),
    )


def read_node(raw: Mapping[str, Any]) -> Node:
    """A Node from the API's JSON."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = {c["type"]: c.get("status") for c in status.get("conditions") or ()}
    return Node(
        **_identity(meta),
        labels=meta.get("labels") or {},
        allocatable={name: quantity(value) for name, value in (status.get("allocatable") or {}).items()},
        ready=conditions.get("Ready") == "True",
        schedulable=not spec.get("unschedulable", False),
        going=any(taint.get("key") in GOING for taint in spec.get("taints") or ()),
    )


def read_deployment(raw: Mapping[str, Any]) -> Deployment:
    """A Deployment from the API's JSON."""
    meta, spec = raw["metadata"], raw.get("spec") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    noted = annotations.get(ANNOTATION_REPLICAS, "")
    return Deployment(
        **_identity(meta),
        generation=meta.get("generation", 0),
        pool=_pool(meta),
        accelerator_class=labels.get(LABEL_CLASS, ""),
        wanted=int(noted) if noted.isdecimal() else int(spec.get("replicas", 1)),
        stopping=frozenset(_listed(annotations.get(ANNOTATION_STOPPING, ""))),
        coming=tuple(_listed(each, ".") for each in _listed(annotations.get(ANNOTATION_COMING, ""))),
        outdated=LABEL_VARIANT in labels,
        content=annotations.get(ANNOTATION_CONTENT, ""),
        terminating="deletionTimestamp" in meta,
        raw=raw,
    )


def seconds(timestamp: str | None) -> float | None:
    """A time in RFC 3339 as Unix seconds; None if there is none, or if it cannot be read."""
    if not timestamp:
        return None
    try:
        return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def version_of(meta: Mapping[str, Any]) -> int:
    """The resource version as a number, which says which of two readings is newer; 0 if it is not a number."""
    text = str(meta.get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def _identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": (meta.get("namespace") or "", meta["name"]),
        "uid": meta.get("uid", ""),
        "version": version_of(meta),
    }


def _pool(meta: Mapping[str, Any]) -> PoolRef:
    """The pool that an object's labels name."""
    labels = meta.get("labels") or {}
    return PoolRef(meta.get("namespace") or "", labels.get(LABEL_POOL, ""), labels.get(LABEL_CASCADE) or None)


def _listed(text: str, separator: str = ",") -> tuple[str, ...]:
    return tuple(name for name in text.split(separator) if name)


def _containers_ready(status: Mapping[str, Any]) -> bool:
    """Whether all containers were ready in the kubelet's last report.

    The kubelet reports containers and pod together. If it is silent, the cluster marks only the pod as not ready.
    """
    containers = status.get("containerStatuses") or ()
    return bool(containers) and all(container.get("ready") for container in containers)


def _problem(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in HOPELESS:
            return f"{waiting['reason']}: {waiting.get('message') or 'see its log'}"[:200]
    return ""


def _requests(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """What the scheduler reserves for a pod: the sum over its containers, or its largest init container if that is
    more.
    """
    total: dict[str, Decimal] = {}
    for container in spec.get("containers") or ():
        for name, value in _asked(container).items():
            total[name] = total.get(name, Decimal(0)) + value
    for container in spec.get("initContainers") or ():
        for name, value in _asked(container).items():
            always = container.get("restartPolicy") == "Always"
            total[name] = total.get(name, Decimal(0)) + value if always else max(total.get(name, Decimal(0)), value)
    for name, value in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + quantity(value)
    return total


def _asked(container: Mapping[str, Any]) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    # Limits need not be read: where requests are missing, the API server copies them from limits.
    return {name: quantity(value) for name, value in (resources.get("requests") or {}).items()}


def whole(value: Decimal) -> int:
    """The whole accelerators in an amount; never below 0."""
    return max(math.floor(value), 0)

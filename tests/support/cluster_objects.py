"""Pods, Nodes and settings of an imaginary cluster, as the API's JSON: sensible defaults, any part overridden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade_api.names import CascadeRef
from cascade_api.settings import AcceleratorClass, Elastic, OperatorSettings
from cascade_operator.clusters.kubernetes.objects import Node, Pod, read_node, read_pod
from cascade_operator.manifests.naming import ANNOTATION_HOSTS, pool_labels
from cascade_operator.snapshot import PoolRef

REF = CascadeRef("default", "shapes")
POOL = PoolRef("default", "cpu", "shapes")
GPU = AcceleratorClass(
    name="test-gpu",
    resource="example.com/gpu",
    node_selector={"class": "test-gpu"},
    tolerations=[{"key": "example.com/gpu", "operator": "Exists"}],
    price_per_hour="1.00",
)
ELASTIC = GPU.model_copy(update={"elastic": Elastic(max=6, provision_seconds=60)})
SETTINGS = OperatorSettings(accelerator_classes=[GPU], runtime_image="registry.example/runtime:1")


def pod_json(
    name: str = "p1",
    *,
    told: str | None = "w1",
    accelerator_class: str = "cpu",
    node: str = "n1",
    ready: bool = True,
    requests: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    unschedulable: str = "",
    **meta: Any,
) -> dict[str, Any]:
    """A worker of the cascade default/shapes, whose agent is ``told`` to host these weights.

    ``unschedulable`` is since when it finds no Node; ``meta`` adds to its metadata.
    """
    labels = pool_labels(POOL, accelerator_class=accelerator_class)
    hosts = {} if told is None else {ANNOTATION_HOSTS: told}
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:10Z"}]
    if unschedulable:
        waits = {"status": "False", "reason": "Unschedulable", "lastTransitionTime": unschedulable}
        conditions.append({"type": "PodScheduled", **waits})
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "10",
            "labels": labels,
            "annotations": {**hosts, **(annotations or {})},
            "creationTimestamp": created,
            **meta,
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "triton", "resources": {"requests": dict(requests or {"cpu": "1"})}}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions},
    }


def make_pod(name: str = "p1", **fields: Any) -> Pod:
    """`pod_json`, read."""
    return read_pod(pod_json(name, **fields))


def make_stranger(name: str, *, node: str = "n1", **requests: str) -> Pod:
    """A pod of another application; ``cpu="500m"``, ``gpu="1"`` are its requests."""
    raw = pod_json(name, node=node, requests={"cpu": "0", **requests})
    raw["metadata"]["labels"] = {}
    asked = raw["spec"]["containers"][0]["resources"]["requests"]
    if "gpu" in asked:
        asked[GPU.resource] = asked.pop("gpu")
    return read_pod(raw)


def make_node(
    name: str = "n1", *, ready: bool = True, schedulable: bool = True, taint: str = "", gpu: int = 0, cpu: str = "8"
) -> Node:
    """A Node; with ``gpu`` it is one of class test-gpu."""
    taints = {"taints": [{"key": taint, "effect": "NoSchedule"}]} if taint else {}
    return read_node(
        {
            "metadata": {"name": name, "labels": {"class": "test-gpu"} if gpu else {}},
            "spec": taints if schedulable else {"unschedulable": True, **taints},
            "status": {
                "allocatable": {"cpu": cpu, **({GPU.resource: str(gpu)} if gpu else {})},
                "conditions": [{"type": "Ready", "status": str(ready)}],
            },
        }
    )

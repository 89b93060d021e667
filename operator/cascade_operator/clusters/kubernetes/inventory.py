"""Accelerators of a cluster by class: what its Nodes offer, less what other pods ask for. Pure.

A replica of a cascade that the planner sees counts as free here, because the planner counts it as used; everything
else on a Node is another's, the pods of a deleted cascade included. A Node that is cordoned, or silent, counts for what
runs on it: nothing may come, and nothing is taken away for that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

from cascade_api.names import CascadeRef
from cascade_api.settings import AcceleratorClass

from .objects import Node, Pod, whole


def count_accelerators(
    nodes: Collection[Node],
    pods: Iterable[Pod],
    *,
    classes: Iterable[AcceleratorClass],
    planned: Collection[CascadeRef],
) -> dict[str, int]:
    """Accelerators by class that the cascades ``planned`` may have together, those in use by them included."""
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.node and not pod.finished:
            by_node[pod.node].append(pod)
    return {
        c.name: sum(
            _on_node(node, by_node[node.key[1]], c, planned) for node in nodes if _matches(node, c.node_selector)
        )
        for c in classes
    }


def told_accelerators(
    pods: Iterable[Pod], *, classes: Iterable[AcceleratorClass], planned: Collection[CascadeRef]
) -> dict[str, int] | None:
    """The same without reading Nodes: a class's count, else what runs of it; None where no class has a count."""
    known = list(classes)
    if all(c.count is None for c in known):
        return None
    running = Counter(pod.accelerator_class for pod in pods if pod.ref in planned and not pod.finished)
    return {c.name: running[c.name] if c.count is None else c.count for c in known}


def _on_node(node: Node, pods: Iterable[Pod], wanted: AcceleratorClass, planned: Collection[CascadeRef]) -> int:
    replicas, others = 0, Decimal(0)
    for pod in pods:
        if pod.accelerator_class == wanted.name and pod.ref in planned:
            # A pod that ends on a silent Node is gone.
            replicas += node.ready or pod.terminating_s is None
        else:
            others += pod.requests.get(wanted.resource, Decimal(0))
    if not (node.ready and node.schedulable):
        return replicas
    # What runs, runs: a replica that finds its Node overfull is not counted away.
    return max(whole(node.allocatable.get(wanted.resource, Decimal(0)) - others), replicas)


def _matches(node: Node, selector: Mapping[str, str]) -> bool:
    return all(node.labels.get(name) == value for name, value in selector.items())

"""The accelerators of a cluster by class: what its Nodes offer, less what other pods request. Pure.

For each Node that matches the class, the number is

    allocatable - requests of pods that are not replicas of planned cascades

but at least the number of replicas that run there. Replicas of planned cascades are not subtracted, because the planner
itself counts them as used. Pods of a deleted cascade are subtracted like any other pod. A Node that is cordoned, or
whose kubelet is silent, counts only with the replicas that run on it: no new ones may come, and none is taken away.
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
    """Accelerators by class that the cascades ``planned`` may have together, including those that they use now."""
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
    """The same without reading Nodes: the count in a class's settings, or if it has none, its replicas that run.

    None if no class has a count.
    """
    known = list(classes)
    if all(c.count is None for c in known):
        return None
    running = Counter(pod.accelerator_class for pod in pods if pod.ref in planned and not pod.finished)
    return {c.name: running[c.name] if c.count is None else c.count for c in known}


def _on_node(node: Node, pods: Iterable[Pod], wanted: AcceleratorClass, planned: Collection[CascadeRef]) -> int:
    replicas, others = 0, Decimal(0)
    for pod in pods:
        if pod.accelerator_class == wanted.name and pod.ref in planned:
            # A terminating pod on a silent Node counts as gone.
            replicas += node.ready or pod.terminating_s is None
        else:
            others += pod.requests.get(wanted.resource, Decimal(0))
    if not (node.ready and node.schedulable):
        return replicas
    # Replicas that run count, even if their Node is overcommitted.
    return max(whole(node.allocatable.get(wanted.resource, Decimal(0)) - others), replicas)


def _matches(node: Node, selector: Mapping[str, str]) -> bool:
    return all(node.labels.get(name) == value for name, value in selector.items())

"""The accelerators of a cluster by class: what its Nodes offer, less what other pods request. Pure.

For each Node that matches the class, the number is

    allocatable - requests of pods that are not workers of planned pools

but at least the number of workers that run there. Workers of planned pools are not subtracted, because the planner
itself counts them as used, once however many cascades share them. Pods of a deleted cascade or WorkerPool are
subtracted like any other pod. A Node that is cordoned or
going, or whose kubelet is silent, counts only with the workers that run on it: no new ones may come, and none is taken
away.

An elastic class has as many as its Nodes, and those that an autoscaler may still add, can have: its ``elastic.max``,
less what other pods have of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

from cascade_api.settings import PROVISION_FACTOR, AcceleratorClass

from ...snapshot import PoolRef
from .objects import Node, Pod, whole

UNSCHEDULABLE_AFTER_S = 10.0
"""A pod that has found no Node for this long counts as failed: other pods have taken the accelerators."""


def count_accelerators(
    nodes: Collection[Node],
    pods: Iterable[Pod],
    *,
    classes: Iterable[AcceleratorClass],
    planned: Collection[PoolRef],
    closed: Collection[str] = (),
) -> dict[str, int]:
    """Accelerators by class that the pools ``planned`` may have together, including those that they use now.

    For the classes ``closed`` no Nodes come now.
    """
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.node and not pod.finished:
            by_node[pod.node].append(pod)
    found: dict[str, int] = {}
    for c in classes:
        matching = [node for node in nodes if _matches(node, c.node_selector)]
        there = sum(_on_node(node, by_node[node.key[1]], c, planned) for node in matching)
        if c.elastic is not None and c.name not in closed:
            others = sum((_others(by_node[node.key[1]], c, planned) for node in matching), Decimal(0))
            there = max(there, whole(c.elastic.max - others))
        found[c.name] = there
    return found


def told_accelerators(
    pods: Iterable[Pod],
    *,
    classes: Iterable[AcceleratorClass],
    planned: Collection[PoolRef],
    closed: Collection[str] = (),
) -> dict[str, int] | None:
    """The same without reading Nodes: what a class's settings say, or if they say nothing, its workers that run.

    None if no class says anything.
    """
    known = list(classes)
    if all(c.count is None and c.elastic is None for c in known):
        return None
    running = Counter(pod.accelerator_class for pod in pods if pod.pool in planned and pod.node and not pod.finished)

    def told(c: AcceleratorClass) -> int:
        there = running[c.name] if c.count is None else c.count
        return there if c.elastic is None or c.name in closed else max(there, c.elastic.max)

    return {c.name: told(c) for c in known}


def unprovisioned(
    pods: Iterable[Pod], *, classes: Mapping[str, AcceleratorClass], planned: Collection[PoolRef], now: float
) -> set[str]:
    """The elastic classes of which a worker has waited for a Node for too long (`PROVISION_FACTOR`)."""
    return {
        pod.accelerator_class
        for pod in pods
        if pod.pool in planned
        and (known := classes.get(pod.accelerator_class)) is not None
        and known.elastic is not None
        and pod.unschedulable_s is not None
        and now - pod.unschedulable_s > patience_s(known)
    }


def patience_s(accelerator_class: AcceleratorClass) -> float:
    """For how long a worker may find no Node before it counts as failed."""
    return max(UNSCHEDULABLE_AFTER_S, PROVISION_FACTOR * accelerator_class.provision_s)


def _others(pods: Iterable[Pod], wanted: AcceleratorClass, planned: Collection[PoolRef]) -> Decimal:
    """What pods that are not workers of planned pools have of a class."""
    return sum(
        (pod.requests.get(wanted.resource, Decimal(0)) for pod in pods if not _is_worker(pod, wanted, planned)),
        Decimal(0),
    )


def _is_worker(pod: Pod, wanted: AcceleratorClass, planned: Collection[PoolRef]) -> bool:
    return pod.accelerator_class == wanted.name and pod.pool in planned


def _on_node(node: Node, pods: Collection[Pod], wanted: AcceleratorClass, planned: Collection[PoolRef]) -> int:
    # A terminating pod on a silent Node counts as gone.
    workers = sum(_is_worker(p, wanted, planned) and (node.ready or p.terminating_s is None) for p in pods)
    if not (node.ready and node.schedulable) or node.going:
        return workers
    # Workers that run count, even if their Node is overcommitted.
    return max(whole(node.allocatable.get(wanted.resource, Decimal(0)) - _others(pods, wanted, planned)), workers)


def _matches(node: Node, selector: Mapping[str, str]) -> bool:
    return all(node.labels.get(name) == value for name, value in selector.items())

"""A small autoscaler of Nodes, as a cluster's own would be: it makes one for each pod that finds none, and takes away
those that nobody uses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .kube import CLASS_LABEL, GPU
from .kube_api import Api, Object
from .node_agent import Node, NodeAgent

LOOK_S = 0.2
TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclass
class Autoscaler:
    """Nodes of one accelerator each, for the pods of a class."""

    api: Api
    nodes: NodeAgent
    accelerator_class: str
    provision_s: float = 2.0
    unused_s: float = 3.0
    there: list[str] = field(default_factory=list)
    """Its Nodes."""
    made: int = 0
    _unused_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Autoscaler]:
        """It looks at the cluster while the block runs, and takes all of its Nodes away afterwards."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="autoscaler")
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            for name in list(self.there):
                self._remove(name)

    def taint(self, name: str, key: str = TAINT) -> None:
        """Say that a Node is going."""
        self.api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}})

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            pods = [pod for pod in self.api.items("/api/v1/pods") if self._is_mine(pod)]
            waiting = [pod for pod in pods if not pod["spec"].get("nodeName") and _unschedulable(pod)]
            used = {pod["spec"].get("nodeName") for pod in pods}
            if len(waiting) > len(set(self.there) - used) and not stop.wait(self.provision_s):
                self._add()
            else:
                self._remove_unused(used)

    def _is_mine(self, pod: Object) -> bool:
        return bool((pod["spec"].get("nodeSelector") or {}).get(CLASS_LABEL) == self.accelerator_class)

    def _add(self) -> None:
        self.made += 1
        name = f"{self.accelerator_class}-{self.made}"
        labels = {CLASS_LABEL: self.accelerator_class}
        self.nodes.add_node(Node(name, {"cpu": "2", "memory": "4Gi", GPU: "1"}, labels))
        self.there.append(name)

    def _remove_unused(self, used: set[str | None]) -> None:
        now = time.monotonic()
        self._unused_s = {name: self._unused_s.get(name, now) for name in self.there if name not in used}
        for name, since_s in list(self._unused_s.items()):
            if now - since_s > self.unused_s:
                self.taint(name)
                self._remove(name)

    def _remove(self, name: str) -> None:
        self.there.remove(name)
        self.nodes.remove_node(name)


def _unschedulable(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)

"""The agent: Nodes with a heartbeat, and the pods that the scheduler binds to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from ..kube_api import Api, ApiError, Follower, Object
from ..waiting import PATIENCE_S, wait_for
from .containers import Container
from .images import Images
from .pods import Host, Pod, grace_of, ready_containers, ready_status
from .pretended import agent_port, pretend
from .volumes import now

T = TypeVar("T")
HEARTBEAT_S = 3.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
LOCK_PORT = 64321
"""Bound on the first address of a block of addresses: two agents on one machine never share a block."""


@dataclass(frozen=True)
class Node:
    """A Node to be made.

    Attributes:
        capacity: by resource; pods are added.
        processes: False: its pods are said to be ready at once, and nothing runs but the agents of workers, which
            host whatever they are told.
    """

    name: str
    capacity: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    processes: bool = True


class NodeAgent:
    """Runs in a thread of its own; every method may be called from any other thread."""

    def __init__(self, api: Api, directory: Path, images: Images) -> None:
        server = urlsplit(api.server)
        self._executor = ThreadPoolExecutor(16, thread_name_prefix="node-agent")
        self._host = Host(
            api=api,
            images=images,
            directory=directory,
            executor=self._executor,
            server=(server.hostname or "", str(server.port or 443)),
        )
        self._api = api
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Pod] = {}
        self._marked: dict[str, asyncio.Task[Any] | None] = {}
        """Pods without processes, with what pretends to be their agent."""
        self._block, self._lock = _claim_addresses()
        self._addresses = itertools.cycle(_addresses(self._block))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="node-agent", daemon=True)
        self._follower = Follower(api, "/api/v1/pods", listed=self._listed, changed=self._changed)

    def start(self) -> None:
        self._thread.start()
        self._loop.call_soon_threadsafe(lambda: self._host.spawn(self._beat()))
        self._follower.start()

    def stop(self) -> None:
        """End all pods' processes at once, and the agent; its Nodes are taken off the API if that is there."""
        self._follower.stop()
        self._wait(self._abandon(list(self._pods.values())))
        for name in list(self._nodes):
            with contextlib.suppress(httpx.TransportError, ApiError):
                self.remove_node(name)
        self._wait(self._rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._executor.shutdown(cancel_futures=True)
        self._lock.close()
        assert not self._host.failures, self._host.failures

    def add_node(self, node: Node) -> None:
        """Make a Node and wait until pods can be bound to it."""
        labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", **node.labels}
        self._api.create(
            "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}}
        )
        self._post(node)
        self._nodes[node.name] = node
        wait_for(lambda: self._schedulable(node.name), what=f"Node {node.name} to be ready")

    def lose_node(self, name: str) -> None:
        """As if its machine lost power: its processes end, its heartbeat stops, and nobody tells the API server."""
        del self._nodes[name]
        lost = [pod for pod in self._pods.values() if pod.manifest["spec"]["nodeName"] == name]
        self._wait(self._abandon(lost))

    def remove_node(self, name: str) -> None:
        """Take a Node off the API, lost or not."""
        self._nodes.pop(name, None)
        self._api.delete(f"/api/v1/nodes/{name}")
        self._api.delete(f"{LEASES}/{name}")

    def containers(self, namespace: str, pod: str = "") -> list[Container]:
        """The containers of a pod, or of all pods of a namespace."""
        pods = [known.manifest["metadata"] | {"of": known} for known in list(self._pods.values())]
        chosen = [m["of"] for m in pods if m["namespace"] == namespace and pod in ("", m["name"])]
        return [container for known in chosen for container in known.containers]

    def logs(self, namespace: str) -> str:
        """The ends of the logs of all pods of a namespace that are here, for the message of a failed test."""
        parts = [f"--- agent\n{failure!r}" for failure in self._host.failures]
        for pod in list(self._pods.values()):
            if pod.manifest["metadata"]["namespace"] == namespace:
                for container in pod.containers:
                    text = container.log.read_text(errors="replace") if container.log.exists() else ""
                    name = f"{pod.manifest['metadata']['name']}/{container.name}"
                    parts.append(f"--- {name}: {container.state}, before {container.last_state}\n{text[-2500:]}")
        return "\n".join(parts)

    def _post(self, node: Node) -> None:
        """Tell the API that a Node is ready and what it offers."""
        resources = {"pods": "1000", **node.capacity}
        condition = {"type": "Ready", "status": "True", "reason": "NodeAgent", "message": "the node agent is here"}
        condition |= {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        status = {"capacity": resources, "allocatable": resources, "conditions": [condition]}
        self._api.patch(f"/api/v1/nodes/{node.name}/status", {"status": status}, "strategic")

    def _schedulable(self, name: str) -> bool:
        return not self._api.get(f"/api/v1/nodes/{name}")["spec"].get("taints")

    # From here on: in the agent's thread, but for the follower's two calls.

    def _listed(self, items: list[Object]) -> None:
        self._loop.call_soon_threadsafe(self._compare, items)

    def _changed(self, kind: str, item: Object) -> None:
        self._loop.call_soon_threadsafe(self._take, kind, item)

    def _compare(self, items: list[Object]) -> None:
        there = {item["metadata"]["uid"] for item in items}
        for uid in set(self._pods) - there:
            self._drop(uid)
        for item in items:
            self._take("MODIFIED", item)

    def _take(self, kind: str, item: Object) -> None:
        uid = item["metadata"]["uid"]
        node = self._nodes.get(item["spec"].get("nodeName", ""))
        if kind == "DELETED":
            self._drop(uid)
        elif node is None:
            pass
        elif item["metadata"].get("deletionTimestamp"):
            self._terminate(uid, item)
        elif (item.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            pass
        elif not node.processes:
            self._mark(uid, item)
        elif uid in self._pods:
            self._pods[uid].compare(item)
        else:
            self._pods[uid] = Pod(item, host=self._host, address=next(self._addresses))
            self._pods[uid].start()

    def _terminate(self, uid: str, item: Object) -> None:
        if uid in self._pods:
            self._pods[uid].terminate(grace_of(item))
        else:
            metadata = item["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            self._host.spawn(self._host.insist(self._api.delete, path, grace_s=0, uid=uid))

    def _mark(self, uid: str, item: Object) -> None:
        if uid not in self._marked:
            address, port = next(self._addresses), agent_port(item)
            work = None if port is None else pretend(item, api=self._api, address=address, port=port)
            self._marked[uid] = None if work is None else self._host.spawn(work)
            metadata = item["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
            status = ready_status(address) | {"containerStatuses": ready_containers(item)}
            self._host.spawn(self._host.insist(self._api.patch, path, {"status": status}, "strategic"))

    def _drop(self, uid: str) -> None:
        pretending = self._marked.pop(uid, None)
        if pretending is not None:
            pretending.cancel()
        pod = self._pods.pop(uid, None)
        if pod is not None:
            self._host.spawn(pod.abandon())

    async def _abandon(self, pods: list[Pod]) -> None:
        for pod in pods:
            self._pods.pop(pod.uid, None)
        await asyncio.gather(*(pod.abandon() for pod in pods))

    async def _rest(self) -> None:
        tasks = [*self._host.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            for node in list(self._nodes.values()):
                with contextlib.suppress(ApiError, httpx.TransportError):
                    await self._host.ask(self._renew, node)
            await asyncio.sleep(HEARTBEAT_S)

    def _renew(self, node: Node) -> None:
        name = node.name
        stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": stamp}
        try:
            self._api.patch(f"{LEASES}/{name}", {"spec": spec})
        except ApiError as error:
            if error.status != 404:
                raise
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
            self._api.create(LEASES, lease)
        conditions = self._api.get(f"/api/v1/nodes/{name}")["status"].get("conditions") or []
        if not any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions):
            # The controller manager gave it up while the API server was away.
            self._post(node)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


def _claim_addresses() -> tuple[int, socket.socket]:
    """The second number of a block 127.x.0.0/16 that no other agent of this machine uses."""
    for block in range(77, 200):
        lock = socket.socket()
        try:
            lock.bind((f"127.{block}.0.1", LOCK_PORT))
            lock.listen(1)
        except OSError:
            lock.close()
        else:
            return block, lock
    raise AssertionError("no free addresses for pods in 127.0.0.0/8")


def _addresses(block: int) -> list[str]:
    return [f"127.{block}.{third}.{fourth}" for third in range(1, 255) for fourth in range(1, 255)]

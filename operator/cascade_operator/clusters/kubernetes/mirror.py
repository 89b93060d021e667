"""A copy of the objects in the API server: filled by lists, updated by watch events, and compared from time to time.

A watch can miss a deletion. If it is interrupted for longer than the API server remembers events, kopf lists all
objects again, and a deleted object simply is not in the list. So the mirror compares itself with the API server, at
regular intervals and whenever the API server was away. It compares metadata only, which is cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from cascade_api.names import LABEL_CASCADE, LABEL_POOL

from .api import (
    CASCADES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    NETWORK_POLICIES,
    NODES,
    PODS,
    PROFILES,
    WORKER_POOLS,
    KubernetesApi,
    Object,
    Resource,
)
from .objects import Deployment, Key, Node, Pod, Seen, read_deployment, read_node, read_pod, version_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MirroredDocument(Seen):
    """A cascade, profile, WorkerPool, ConfigMap or NetworkPolicy, as the API server has it."""

    generation: int
    terminating: bool
    raw: Mapping[str, Any] = field(repr=False, compare=False)


T = TypeVar("T", bound=Seen)


def read_document(raw: Mapping[str, Any]) -> MirroredDocument:
    """A cascade, profile, WorkerPool, ConfigMap or NetworkPolicy, from the API's JSON."""
    meta = raw["metadata"]
    return MirroredDocument(
        key=(meta.get("namespace") or "", meta["name"]),
        uid=meta.get("uid", ""),
        version=version_of(meta),
        generation=meta.get("generation", 0),
        terminating="deletionTimestamp" in meta,
        raw=raw,
    )


class Shelf(Generic[T]):
    """The objects of one kind, each in its newest version that was read."""

    def __init__(
        self,
        resource: Resource,
        read: Callable[[Mapping[str, Any]], T],
        *,
        changed: Callable[[T], None],
        selector: str | None = None,
    ) -> None:
        """Make an empty shelf.

        Args:
            resource: the kind.
            read: makes an object of the API's JSON.
            changed: is called with each object that was added or removed, or differs in more than its version.
            selector: a label that the objects must have.
        """
        self.resource = resource
        self.selector = selector
        self._read = read
        self._changed = changed
        self._items: dict[Key, T] = {}
        self.revision = 0
        """Grows with every change, so that results derived from the objects can be cached until it grows."""

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Key) -> T | None:
        return self._items.get(key)

    def put(self, raw: Mapping[str, Any]) -> T:
        """Store an object unless a newer version of it is known; returns the newer one of the two."""
        item = self._read(raw)
        known = self._items.get(item.key)
        if known is not None and known.uid == item.uid and known.version >= item.version:
            return known
        self._items[item.key] = item
        self.revision += 1
        if item != known:
            self._changed(item)
        return item

    def drop(self, key: Key, uid: str) -> None:
        """Forget the object with this ``uid``."""
        known = self._items.get(key)
        if known is not None and known.uid == uid:
            del self._items[key]
            self.revision += 1
            self._changed(known)

    def see(self, event: Mapping[str, Any]) -> None:
        """Apply a watch event."""
        raw = event["object"]
        if event["type"] == "DELETED":
            meta = raw["metadata"]
            self.drop((meta.get("namespace") or "", meta["name"]), meta.get("uid", ""))
        else:
            self.put(raw)

    async def fill(self, api: KubernetesApi, namespaces: Sequence[str]) -> None:
        """List all objects and store them."""
        for raw in await self._list(api, namespaces):
            self.put(raw)

    async def compare(self, api: KubernetesApi, namespaces: Sequence[str]) -> None:
        """Forget objects that no longer exist, and read those again of which a newer version exists."""
        before = dict(self._items)
        there: dict[Key, tuple[str, int]] = {}
        for raw in await self._list(api, namespaces, metadata_only=True):
            meta = raw["metadata"]
            there[meta.get("namespace") or "", meta["name"]] = meta.get("uid", ""), version_of(meta)
        for key, item in before.items():
            if key not in there or there[key][0] != item.uid:
                log.debug("gone unnoticed", kind=self.resource.plural, name="/".join(key))
                self.drop(key, item.uid)
        for key, (uid, version) in there.items():
            known = self._items.get(key)
            if known is None or known.uid != uid or known.version < version:
                raw_object = await api.get(self.resource, *key)
                if raw_object is not None:
                    self.put(raw_object)

    async def _list(
        self, api: KubernetesApi, namespaces: Sequence[str], *, metadata_only: bool = False
    ) -> list[Object]:
        places = namespaces if namespaces and self.resource.namespaced else ("",)
        lists = [
            await api.list(self.resource, place, selector=self.selector, metadata_only=metadata_only)
            for place in places
        ]
        return [raw for items in lists for raw in items]


class Mirror:
    """A copy of all cascades, profiles, WorkerPools, the Deployments, ConfigMaps and NetworkPolicies that are made for
    them, pods and Nodes.
    """

    def __init__(
        self,
        api: KubernetesApi,
        *,
        namespaces: Sequence[str],
        changed: Callable[[], None],
        keeps_policies: bool = True,
    ) -> None:
        """Make an empty mirror.

        Args:
            api: the API server.
            namespaces: the namespaces that are watched; empty: the whole cluster.
            changed: is called after changes that a decision may depend on.
            keeps_policies: whether the operator makes NetworkPolicies, and so must see them.
        """

        def any_of_them(thing: object) -> None:
            changed()

        def worker(pod: Pod) -> None:
            # Pods of others are considered at the next tick; their changes do not start one.
            if pod.pool is not None:
                changed()

        self._api = api
        self._namespaces = list(namespaces)
        self._keeps_policies = keeps_policies
        self.cascades: Shelf[MirroredDocument] = Shelf(CASCADES, read_document, changed=any_of_them)
        self.profiles: Shelf[MirroredDocument] = Shelf(PROFILES, read_document, changed=any_of_them)
        self.worker_pools: Shelf[MirroredDocument] = Shelf(WORKER_POOLS, read_document, changed=any_of_them)
        self.deployments: Shelf[Deployment] = Shelf(
            DEPLOYMENTS, read_deployment, changed=any_of_them, selector=LABEL_POOL
        )
        self.config_maps: Shelf[MirroredDocument] = Shelf(
            CONFIG_MAPS, read_document, changed=lambda _: None, selector=LABEL_CASCADE
        )
        self.network_policies: Shelf[MirroredDocument] = Shelf(
            NETWORK_POLICIES, read_document, changed=any_of_them, selector=LABEL_CASCADE
        )
        self.pods: Shelf[Pod] = Shelf(PODS, read_pod, changed=worker)
        self.nodes: Shelf[Node] = Shelf(NODES, read_node, changed=any_of_them)
        self.complete = False
        """Whether everything has been listed once."""
        self.sees_nodes = True
        """Whether Nodes may be read. Without them the accelerators of the cluster are not known."""
        self._sees_policies = True
        self._sees_all_pods = True

    def covers(self, namespace: str) -> bool:
        """Whether objects of a namespace are watched."""
        return not self._namespaces or namespace in self._namespaces

    def shelf_of(self, plural: str) -> Shelf[Any]:
        """The shelf of a kind; raises KeyError if it is not watched."""
        return {shelf.resource.plural: shelf for shelf in self._shelves}[plural]

    def watches(self, plural: str) -> bool:
        """Whether objects of a kind are watched."""
        return any(shelf.resource.plural == plural for shelf in self._shelves)

    async def begin(self) -> None:
        """Find out which kinds may be read, and list them; raises ApiAway or ApiRefused."""
        self.sees_nodes = await self._api.allowed(verb="list", group="", resource="nodes")
        self._sees_all_pods = not self._namespaces or await self._api.allowed(verb="list", group="", resource="pods")
        self._sees_policies = self._keeps_policies or await self._may_see_policies()
        await asyncio.gather(*(shelf.fill(self._api, self._where(shelf)) for shelf in self._shelves))
        self.complete = True

    async def _may_see_policies(self) -> bool:
        """Whether NetworkPolicies may be read.

        An operator that makes none does not need this right. If it has it, it removes those that an earlier one made.
        """
        asked = {"verb": "list", "group": "networking.k8s.io", "resource": NETWORK_POLICIES.plural}
        namespaces = self._namespaces or [""]
        return all(await asyncio.gather(*(self._api.allowed(**asked, namespace=each) for each in namespaces)))

    async def compare(self) -> None:
        """Correct what the watches missed; raises ApiAway or ApiRefused."""
        await asyncio.gather(*(shelf.compare(self._api, self._where(shelf)) for shelf in self._shelves))

    def _where(self, shelf: Shelf[Any]) -> Sequence[str]:
        # Pods are read in all namespaces if that is allowed, to know which accelerators others use.
        return () if shelf is self.pods and self._sees_all_pods else self._namespaces

    @property
    def _shelves(self) -> list[Shelf[Any]]:
        shelves: list[Shelf[Any]] = [self.cascades, self.profiles, self.worker_pools]
        shelves += [self.deployments, self.config_maps, self.pods]
        if self._sees_policies:
            shelves.append(self.network_policies)
        return [*shelves, self.nodes] if self.sees_nodes else shelves

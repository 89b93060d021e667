"""Workers as pods: a pool is a Deployment; a start adds one to its replicas, a stop takes one away. What a pod hosts is
told to its agent, so that loads and unloads start and stop no pod.

All state is in the cluster: the Deployments hold the wanted numbers and the names of the pods that are to go, and the
pods hold what their agents are told, and when they began to drain. So an operator that was killed continues where it
was. In the steady state nothing is written.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason
from cascade_api.settings import REOPEN_FACTOR, AcceleratorClass, OperatorSettings

from ...manifests.documents import cascade_document
from ...manifests.drift import Baselines
from ...manifests.naming import (
    ANNOTATION_CONTENT,
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAINING,
    ANNOTATION_HOSTS,
    ANNOTATION_REPLICAS,
    ANNOTATION_STOPPING,
    ANNOTATION_VARIANTS,
    FIRST_TO_GO,
    Owner,
    pool_object_name,
)
from ...manifests.policies import policy_name, worker_policy
from ...manifests.pools import AGENT_PORT, PoolShape, pool_deployment
from ...planning.plans import timestamp
from ...snapshot import DrainWorker, Load, Move, PoolRef, StartWorker, StopWorker, Unload, Worker
from ...sources import PoolSubject, Subject
from .. import ClusterFailed
from .api import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    NETWORK_POLICIES,
    NOT_FOUND,
    PODS,
    ApiRefused,
    KubernetesApi,
    Object,
)
from .inventory import UNSCHEDULABLE_AFTER_S, count_accelerators, patience_s, told_accelerators, unprovisioned
from .keys import PoolKeys
from .links import Links, Told
from .mirror import Mirror
from .objects import Deployment, Pod
from .pools import Change, ClusterPool, change_of, workers_of
from .tended import TendedPool, tended

log = structlog.get_logger(__name__)

REVERT_EVERY_S: Final = 5.0
"""Pause between two reversals of edits on one object. If another controller insists on its edit, the operator reports
that but does not compete with it."""


REFUSED_PAUSE_S: Final = 30.0
BAD_REQUEST, UNPROCESSABLE = 400, 422


def agent_url(pod: Pod) -> str:
    """Where the agent of a pod listens."""
    return f"http://{pod.host}:{AGENT_PORT}"


class KubernetesCluster:
    """The driver for a Kubernetes cluster."""

    def __init__(
        self,
        api: KubernetesApi,
        mirror: Mirror,
        *,
        settings: OperatorSettings,
        notice: Callable[[CascadeRef, Reason, str], None],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        agent_url: Callable[[Pod], str] = agent_url,
    ) -> None:
        """Make a driver, which can act as soon as `keys` know the operator's secret.

        Args:
            api: the API server.
            mirror: what the API server has.
            settings: the operator's settings.
            notice: is called with what people should know: the cascade, a reason and a message.
            changed: is called whenever an agent reports something else.
            clock: the time in Unix seconds.
            agent_url: where the agent of a pod listens.
        """
        self.keys = PoolKeys(api, clock=clock)
        self._api = api
        self._mirror = mirror
        self._settings = settings
        self._classes: Mapping[str, AcceleratorClass] = {c.name: c for c in settings.classes}
        self._notice = notice
        self._clock = clock
        self._agent_url = agent_url
        self._links = Links(changed=changed, refused=self._agent_refuses)
        self._tended: Mapping[PoolRef, TendedPool] = {}
        self._baselines = Baselines()
        self._reverted_s: dict[str, float] = {}
        self._refused: dict[tuple[str, str], tuple[str, float]] = {}
        self._closed_s: dict[str, float] = {}
        self._going_s: dict[str, float] = {}
        self._in_line: dict[str, tuple[int, Object]] = {}
        self._grouped: tuple[tuple[int, int], dict[PoolRef, dict[str, ClusterPool]]] = (-1, -1), {}

    async def inventory(self) -> Mapping[str, int] | None:
        if not (self._mirror.complete and self._api.available):
            return None
        pods, classes, planned = self._mirror.pods, self._classes.values(), self._tended.keys()
        closed = self._closed_classes()
        if not self._mirror.sees_nodes:
            return told_accelerators(pods, classes=classes, planned=planned, closed=closed)
        return count_accelerators(list(self._mirror.nodes), pods, classes=classes, planned=planned, closed=closed)

    async def workers(self) -> tuple[Worker, ...]:
        nodes = self._nodes_there()
        now = self._clock()
        await self._links.settle()
        reports = self._links.reports()
        return tuple(
            worker
            for ref in self._tended
            for pool in self._pools(ref).values()
            for worker in workers_of(pool, reports, now=now, nodes=nodes, patience_s=self._patience_s(pool))
        )

    async def reconcile(self, subjects: Sequence[Subject], pools: Sequence[PoolSubject]) -> None:
        self._tended = tended(subjects, pools, self._all_pools())
        self._going_s = self._going_since()
        deployments: dict[PoolRef, list[Deployment]] = defaultdict(list)
        for deployment in self._mirror.deployments:
            deployments[deployment.pool].append(deployment)
        by_owner: dict[Owner, list[TendedPool]] = defaultdict(list)
        for pool in self._tended.values():
            if pool.acts:
                by_owner[pool.owner].append(pool)
        work = [self._reconcile_owner(owner, own, deployments) for owner, own in by_owner.items()]
        work += [self._keep_document(subject) for subject in subjects if subject.cascade.spec.policy.mode == "auto"]
        for result in await asyncio.gather(*work, return_exceptions=True):
            # A failure for one owner must not affect the others.
            if isinstance(result, ClusterFailed):
                log.warning("what runs could not be brought in line", error=str(result))
            elif isinstance(result, BaseException):
                log.error("what runs could not be brought in line", error=repr(result), exc_info=result)
        self._link()

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        kept = self._tended.get(pool)
        if kept is None:
            return
        pools = self._pools(pool)
        by_worker = {pod.key[1]: (pool, pod) for pool in pools.values() for pod in pool.pods}
        by_pool: dict[str, list[StartWorker | Load | Unload | StopWorker]] = defaultdict(list)
        for move in moves:
            if isinstance(move, StartWorker):
                by_pool[self._pool_for(move, pools)].append(move)
            elif move.worker in by_worker:
                own, pod = by_worker[move.worker]
                if isinstance(move, DrainWorker):
                    await self._drain(pod)
                elif isinstance(move, Load) and self._shape(kept, own) is None:
                    # No pod of a pool that the spec no longer has is used again.
                    by_pool[own.name].append(StopWorker(move.worker))
                else:
                    by_pool[own.name].append(move)
        for name, wanted in by_pool.items():
            await self._change(kept, pools[name], change_of(pools[name], wanted))
        self._link()

    async def close(self) -> None:
        """Close the connection; pods continue to serve without the operator."""
        await self._links.close()
        self._api.close()

    def _closed_classes(self) -> set[str]:
        """The elastic classes for which no Node came lately."""
        now = self._clock()
        for name in unprovisioned(self._mirror.pods, classes=self._classes, planned=self._tended.keys(), now=now):
            if name not in self._closed_s:
                log.warning("no Node comes for an elastic class", accelerator_class=name)
            self._closed_s[name] = now
        self._closed_s = {
            name: since_s
            for name, since_s in self._closed_s.items()
            if now - since_s < REOPEN_FACTOR * self._classes[name].provision_s
        }
        return set(self._closed_s)

    def _patience_s(self, pool: ClusterPool) -> float:
        known = self._classes.get(pool.accelerator_class)
        return UNSCHEDULABLE_AFTER_S if known is None else patience_s(known)

    def _going_since(self) -> dict[str, float]:
        """Since when Nodes are seen to be going, by their names."""
        nodes, now = self._mirror.nodes if self._mirror.sees_nodes else (), self._clock()
        return {node.key[1]: self._going_s.get(node.key[1], now) for node in nodes if node.going}

    async def _leave_nodes(self, ref: PoolRef) -> None:
        """Delete the workers on Nodes that are going: they end what they have in hand, and others come elsewhere."""
        for pod in [pod for pool in self._pools(ref).values() for pod in pool.live]:
            # A pod that came later tolerates the taint; it would come again and again.
            if pod.created_s <= self._going_s.get(pod.node, -math.inf):
                log.info("a Node is going: its worker leaves", node=pod.node, worker=pod.key[1])
                await self._api.delete(PODS, *pod.key, uid=pod.uid)

    def _agent_refuses(self, uid: str, problem: str) -> None:
        """Tell people of an agent that cannot host what it is told."""
        for pod in self._mirror.pods:
            kept = self._tended.get(pod.pool) if pod.pool is not None else None
            if kept is not None and pod.uid == uid:
                self._tell(kept.cascades, Reason.REPLICAS_FAILING, f"worker {pod.key[1]}: {problem}")

    def _tell(self, cascades: Iterable[CascadeRef], reason: Reason, message: str) -> None:
        """Tell the people of all cascades that something concerns."""
        for ref in cascades:
            self._notice(ref, reason, message)

    def _nodes_there(self) -> set[str]:
        """Nodes that are ready, so that their terminating pods will end; if Nodes cannot be read, those of all pods."""
        if not self._mirror.sees_nodes:
            return {pod.node for pod in self._mirror.pods}
        return {node.key[1] for node in self._mirror.nodes if node.ready}

    def _pools(self, ref: PoolRef) -> dict[str, ClusterPool]:
        """What there is of a pool, by the name of its Deployment: one for each class that it has or had. The caller may
        change the dictionary."""
        return dict(self._all_pools().get(ref, {}))

    def _all_pools(self) -> Mapping[PoolRef, dict[str, ClusterPool]]:
        """The same of all pools, also of those that nobody has in his care."""
        revision = (self._mirror.pods.revision, self._mirror.deployments.revision)
        if self._grouped[0] != revision:
            self._grouped = revision, _grouped(self._mirror.deployments, self._mirror.pods)
        return self._grouped[1]

    def _pool_for(self, start: StartWorker, pools: dict[str, ClusterPool]) -> str:
        """The name of the pool that a worker is started in; if it is new, it is added to ``pools``."""
        name = pool_object_name(start.pool, accelerator_class=start.accelerator_class)
        pools.setdefault(name, ClusterPool(name, start.pool, start.accelerator_class))
        return name

    def _link(self) -> None:
        """Tell the agents of all pods what to host, and listen to them."""
        told: dict[str, Told] = {}
        for ref, kept in self._tended.items():
            for pool in self._pools(ref).values():
                key = self.keys.of(ref, owner=kept.owner, accelerator_class=pool.accelerator_class).key
                for pod in pool.pods:
                    if pod.ip and not pod.finished:
                        document = self._document(kept, pool, pod)
                        told[pod.uid] = Told(pod.key[1], self._agent_url(pod), key, document)
        self._links.keep(told)

    def _document(self, kept: TendedPool, pool: ClusterPool, pod: Pod) -> Mapping[str, Any] | None:
        """What the agent of a pod is told; None: nothing yet, so that it goes on as it is."""
        weights = pool.told(pod)
        if pod.told is None and not weights:
            return None
        return self._baselines.made(f"{kept.ref}/hosts/{weights}", kept.specs, lambda: kept.document(weights))

    async def _drain(self, pod: Pod) -> None:
        if pod.terminating_s is not None or pod.draining_s is not None:
            return
        log.info("draining", worker="/".join(pod.key))
        await self._annotate(
            pod, {ANNOTATION_DRAINING: timestamp(self._clock()), ANNOTATION_DELETION_COST: FIRST_TO_GO}
        )

    async def _change(self, kept: TendedPool, pool: ClusterPool, change: Change) -> None:
        """Note what pods are to host. Where their number changes, mark those that are to go by their deletion cost, and
        then change the number: the cluster removes the cheapest pods first."""
        by_name = {pod.key[1]: pod for pod in pool.pods}
        for name, weights in change.told.items():
            log.info("hosting", namespace=kept.ref.namespace, pool=pool.name, worker=name, weights=list(weights))
            await self._annotate(by_name[name], _hosting(kept, weights))
        if not change.resizes(pool):
            return
        log.info(
            "resizing",
            namespace=kept.ref.namespace,
            pool=pool.name,
            before=pool.wanted,
            replicas=change.wanted,
            stopping=list(change.condemned),
            kept=list(change.spared),
        )
        for name in change.condemned:
            if by_name[name].draining_s is None:
                await self._annotate(by_name[name], {ANNOTATION_DELETION_COST: FIRST_TO_GO})
        for name in change.spared:
            await self._annotate(by_name[name], {ANNOTATION_DRAINING: None, ANNOTATION_DELETION_COST: None})
        if change.wanted == pool.wanted and change.stopping == pool.stopping:
            return
        manifest = self._manifest(
            kept, replace(pool, wanted=change.wanted, stopping=change.stopping, coming=change.coming)
        )
        if manifest is not None:
            await self._apply(kept, manifest)
            return
        # The spec no longer has this pool: only the number of its replicas is still changed.
        patch: Object = {
            "metadata": {
                "annotations": {
                    ANNOTATION_REPLICAS: str(change.wanted),
                    ANNOTATION_STOPPING: ",".join(sorted(change.stopping)),
                }
            },
            "spec": {"replicas": change.wanted},
        }
        self._mirror.deployments.put(await self._api.merge(DEPLOYMENTS, kept.ref.namespace, pool.name, patch))

    async def _annotate(self, pod: Pod, annotations: Mapping[str, str | None]) -> None:
        patch = {"metadata": {"annotations": dict(annotations)}}
        try:
            self._mirror.pods.put(await self._api.merge(PODS, *pod.key, patch))
        except ApiRefused as refused:
            if refused.status != NOT_FOUND:
                raise

    async def _reconcile_owner(
        self, owner: Owner, pools: Sequence[TendedPool], deployments: Mapping[PoolRef, Sequence[Deployment]]
    ) -> None:
        """Bring all pools of a cascade, or a WorkerPool, in line."""
        for kept in pools:
            await self._leave_nodes(kept.ref)
        # The policy comes before the keys. No pod starts without its agent's, so no pod ever runs without the policy.
        await self._keep_policy(owner, list(dict.fromkeys(ref for kept in pools for ref in kept.cascades)))
        for kept in pools:
            await self._keep_key(kept)
        for kept in pools:
            for deployment in deployments.get(kept.ref, ()):
                if not deployment.terminating:
                    await self._keep_deployment(kept, deployment)

    async def _keep_policy(self, owner: Owner, cascades: Sequence[CascadeRef]) -> None:
        name = policy_name(owner)
        there = self._mirror.network_policies.get((owner.namespace, name))
        spec = self._settings.worker_network_policy
        if spec is None:
            if there is not None:
                await self._api.delete(NETWORK_POLICIES, *there.key, uid=there.uid)
            return
        manifest = self._baselines.made(f"{owner.namespace}/{name}", owner, lambda: worker_policy(owner, spec=spec))
        if there is not None and _content_of(there.raw) == _content_of(manifest):
            edited = self._baselines.difference(there.raw, manifest)
            if edited is None or not self._may_revert(there.uid):
                return
            message = f"NetworkPolicy {name}: {edited} was changed and is restored"
            self._tell(cascades, Reason.EDIT_REVERTED, message)
        applied = await self._api.apply(NETWORK_POLICIES, manifest)
        self._baselines.keep(applied, manifest)
        self._mirror.network_policies.put(applied)

    async def _keep_document(self, subject: Subject) -> None:
        profile = subject.profile
        if profile is None:
            return
        manifest = self._baselines.made(
            str(subject.cascade.ref),
            (subject.cascade, profile, subject.uid),
            lambda: cascade_document(subject.cascade, profile, uid=subject.uid),
        )
        meta = manifest["metadata"]
        there = self._mirror.config_maps.get((meta["namespace"], meta["name"]))
        same = there is not None and all(there.raw.get(part) == manifest.get(part) for part in ("data", "binaryData"))
        if not same:
            self._mirror.config_maps.put(await self._api.apply(CONFIG_MAPS, manifest))

    async def _keep_deployment(self, kept: TendedPool, deployment: Deployment) -> None:
        where = {"namespace": deployment.key[0], "pool": deployment.key[1]}
        if deployment.outdated:
            log.info("removing what an earlier version made", **where)
            await self._api.delete(DEPLOYMENTS, *deployment.key, uid=deployment.uid)
            return
        await self._keep_told(kept, self._pools(kept.ref)[deployment.key[1]])
        pool = self._pools(kept.ref)[deployment.key[1]]
        come = bool(pool.coming) and not pool.due
        if come:
            # A pod that replaces another one later is told what is missing then.
            pool = replace(pool, coming=())
        manifest = self._manifest(kept, pool)
        if manifest is None:
            if pool.wanted == 0 and not pool.pods:
                log.info("removing", **where)
                await self._api.delete(DEPLOYMENTS, *deployment.key, uid=deployment.uid)
            return
        if self._in_line.get(deployment.uid) == (deployment.version, manifest):
            return
        if come:
            log.info("all have come", **where)
        elif deployment.content == manifest["metadata"]["annotations"][ANNOTATION_CONTENT]:
            edited = self._baselines.difference(deployment.raw, manifest)
            if edited is None:
                self._in_line[deployment.uid] = deployment.version, manifest
                return
            if not self._may_revert(deployment.uid):
                return
            message = f"Deployment {pool.name}: {edited} was changed and is restored"
            self._tell(kept.cascades, Reason.EDIT_REVERTED, message)
        else:
            log.info("updating", **where)
        await self._apply(kept, manifest)

    async def _keep_told(self, kept: TendedPool, pool: ClusterPool) -> None:
        """Note on new pods what is due to be hosted there, so that it stays so however many others come and go.

        Weights that no variant of any of its cascades has any more are taken off all notes, and so their agents unload
        them at once.
        """
        known = kept.known
        for pod, weights in [(pod, pool.told(pod)) for pod in pool.live]:
            left = tuple(digest for digest in weights if digest in known)
            if left != (pod.told or ()):
                await self._annotate(pod, _hosting(kept, left))

    def _may_revert(self, uid: str) -> bool:
        now = self._clock()
        if now - self._reverted_s.get(uid, 0.0) < REVERT_EVERY_S:
            return False
        self._reverted_s[uid] = now
        return True

    def _shape(self, kept: TendedPool, pool: ClusterPool) -> PoolShape | None:
        """What the pods of a pool are made of; None if spec or settings no longer have the pool or its class."""
        accelerator_class = self._classes.get(pool.accelerator_class)
        workers = kept.workers
        if accelerator_class is None or workers is None or workers.accelerator_class != accelerator_class.name:
            return None
        return PoolShape(
            pool=pool.ref,
            workers=workers,
            accelerator_class=accelerator_class,
            owner=kept.owner,
            key_secret=self.keys.of(pool.ref, owner=kept.owner, accelerator_class=pool.accelerator_class).secret,
            memory=kept.memory(workers, accelerator_class),
            leave_s=kept.leave_s,
        )

    def _manifest(self, kept: TendedPool, pool: ClusterPool) -> Object | None:
        """The pool's Deployment; None if spec or settings no longer have the pool."""
        shape = self._shape(kept, pool)
        if shape is None:
            return None

        def build() -> dict[str, Any]:
            return pool_deployment(
                shape,
                settings=self._settings,
                replicas=pool.wanted,
                stopping=sorted(pool.stopping),
                coming=pool.coming,
            )

        key = (kept.workers, kept.specs, kept.owner, pool.wanted, pool.stopping, pool.coming)
        return self._baselines.made(f"{kept.ref}/{pool.name}", key, build)

    async def _keep_key(self, kept: TendedPool) -> None:
        if kept.workers is not None:
            await self.keys.keep(
                kept.ref,
                accelerator_class=kept.workers.accelerator_class,
                owner=kept.owner,
                pods=[pod for pool in self._pools(kept.ref).values() for pod in pool.live],
            )

    async def _apply(self, kept: TendedPool, manifest: Object) -> None:
        """Apply a Deployment; if it was refused, it is offered again only after `REFUSED_PAUSE_S`."""
        name, now = manifest["metadata"]["name"], self._clock()
        content = manifest["metadata"]["annotations"][ANNOTATION_CONTENT]
        refused = self._refused.get((kept.ref.namespace, name))
        if refused is not None and refused[0] == content and now - refused[1] < REFUSED_PAUSE_S:
            raise ClusterFailed(f"Deployment {name} was refused a moment ago")
        try:
            applied = await self._api.apply(DEPLOYMENTS, manifest)
        except ApiRefused as error:
            self._refused[kept.ref.namespace, name] = content, now
            if error.status in (BAD_REQUEST, UNPROCESSABLE):
                field = f"WorkerPool {kept.ref.name}: spec" if kept.owner.shared else "spec.workers"
                self._tell(kept.cascades, Reason.INVALID_SPEC, f"{field}: podTemplate: {error}")
            raise
        self._refused.pop((kept.ref.namespace, name), None)
        self._baselines.keep(applied, manifest)
        self._mirror.deployments.put(applied)


def _hosting(kept: TendedPool, weights: Sequence[str]) -> dict[str, str]:
    """The annotations that say what a pod is to host."""
    return {ANNOTATION_HOSTS: ",".join(weights), ANNOTATION_VARIANTS: ",".join(kept.variants(weights))}


def _content_of(thing: Mapping[str, Any]) -> str | None:
    """The digest of the wanted content, as noted when the object was applied; None if it was not noted."""
    annotations: Mapping[str, str] = thing["metadata"].get("annotations") or {}
    return annotations.get(ANNOTATION_CONTENT)


def _grouped(deployments: Iterable[Deployment], pods: Iterable[Pod]) -> dict[PoolRef, dict[str, ClusterPool]]:
    """What there is of all pools, by pool and by the name of the Deployment.

    Pods whose Deployment is gone form a pool whose wanted number is 0.
    """
    by_pool: dict[tuple[PoolRef, str], list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.pool is not None:
            by_pool[pod.pool, pod.accelerator_class].append(pod)
    found = []
    for each in deployments:
        if not each.terminating:
            own = by_pool.pop((each.pool, each.accelerator_class), [])
            found.append(
                ClusterPool(
                    each.key[1], each.pool, each.accelerator_class, each.wanted, each.stopping, each.coming, tuple(own)
                )
            )
    for (pool, on), orphans in by_pool.items():
        found.append(ClusterPool(pool_object_name(pool, accelerator_class=on), pool, on, pods=tuple(orphans)))
    pools: dict[PoolRef, dict[str, ClusterPool]] = defaultdict(dict)
    for cluster_pool in found:
        pools[cluster_pool.ref][cluster_pool.name] = cluster_pool
    return dict(pools)

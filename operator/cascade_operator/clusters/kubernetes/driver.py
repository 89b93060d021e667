"""Workers as pods: a variant on a class is a Deployment; a start adds one to its replicas, a stop takes one away.

All state is in the cluster: the Deployments hold the wanted numbers and the names of the pods that are to go, and the
pods hold when they began to drain. So an operator that was killed continues where it was. In the steady state nothing
is written. To host other weights on the same accelerator, the driver first stops the old pod; when it is gone, the
planner starts the new one.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from cascade_api.names import CascadeRef
from cascade_api.profile import profile_for
from cascade_api.reasons import Reason
from cascade_api.settings import AcceleratorClass, OperatorSettings

from ...manifests.documents import cascade_document
from ...manifests.drift import Baselines
from ...manifests.naming import (
    ANNOTATION_CONTENT,
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAINING,
    ANNOTATION_REPLICAS,
    ANNOTATION_STOPPING,
    FIRST_TO_GO,
    pool_object_name,
)
from ...manifests.policies import policy_name, worker_policy
from ...manifests.pools import pool_deployment
from ...planning.plans import timestamp
from ...snapshot import DrainWorker, Load, Move, PoolRef, StartWorker, StopWorker, Worker
from ...sources import Subject
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
from .inventory import count_accelerators, told_accelerators
from .mirror import Mirror
from .objects import Deployment, Pod
from .pools import Change, ClusterPool, as_stop, change_of, workers_of

log = structlog.get_logger(__name__)

REVERT_EVERY_S: Final = 5.0
"""Pause between two reversals of edits on one object. If another controller insists on its edit, the operator reports
that but does not compete with it."""


REFUSED_PAUSE_S: Final = 30.0
BAD_REQUEST, UNPROCESSABLE = 400, 422


class KubernetesCluster:
    """The driver for a Kubernetes cluster."""

    hosts_several = False

    def __init__(
        self,
        api: KubernetesApi,
        mirror: Mirror,
        *,
        settings: OperatorSettings,
        notice: Callable[[CascadeRef, Reason, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``notice`` is called with what people should know: the cascade, a reason and a message."""
        self._api = api
        self._mirror = mirror
        self._settings = settings
        self._classes: Mapping[str, AcceleratorClass] = {c.name: c for c in settings.classes}
        self._notice = notice
        self._clock = clock
        self._subjects: dict[CascadeRef, Subject] = {}
        self._baselines = Baselines()
        self._reverted_s: dict[str, float] = {}
        self._refused: dict[tuple[CascadeRef, str], tuple[str, float]] = {}
        self._in_line: dict[str, tuple[int, Object]] = {}
        self._grouped: tuple[tuple[int, int], dict[CascadeRef, dict[str, ClusterPool]]] = (-1, -1), {}

    async def inventory(self) -> Mapping[str, int] | None:
        if not (self._mirror.complete and self._api.available):
            return None
        pods, classes, planned = self._mirror.pods, self._classes.values(), self._subjects.keys()
        if not self._mirror.sees_nodes:
            return told_accelerators(pods, classes=classes, planned=planned)
        return count_accelerators(list(self._mirror.nodes), pods, classes=classes, planned=planned)

    async def workers(self) -> tuple[Worker, ...]:
        nodes = self._nodes_there()
        now = self._clock()
        return tuple(
            worker
            for ref in self._subjects
            for pool in self._pools(ref).values()
            for worker in workers_of(pool, now=now, nodes=nodes)
        )

    async def reconcile(self, subjects: Sequence[Subject]) -> None:
        self._subjects = {subject.cascade.ref: subject for subject in subjects}
        by_cascade: dict[CascadeRef, list[Deployment]] = defaultdict(list)
        for deployment in self._mirror.deployments:
            by_cascade[deployment.ref].append(deployment)
        work = [
            self._reconcile_one(subject, by_cascade[subject.cascade.ref])
            for subject in subjects
            if subject.cascade.spec.policy.mode == "auto" and subject.profile is not None
        ]
        for result in await asyncio.gather(*work, return_exceptions=True):
            # A failure for one cascade must not affect the others.
            if isinstance(result, ClusterFailed):
                log.warning("what runs could not be brought in line", error=str(result))
            elif isinstance(result, BaseException):
                log.error("what runs could not be brought in line", error=repr(result), exc_info=result)

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        ref = pool.owner
        if ref is None or ref not in self._subjects:
            return
        pools = self._pools(ref)
        pods = {pod.key[1]: pod for each in pools.values() for pod in each.pods}
        by_pool: dict[str, list[StartWorker | Load | StopWorker]] = defaultdict(list)
        for move in moves:
            match move:
                case StartWorker():
                    by_pool[self._pool_for(ref, move, pools)].append(move)
                case DrainWorker() if move.worker in pods:
                    await self._drain(ref, pods[move.worker])
                case Load() | StopWorker() if move.worker in pods:
                    own = pools[pods[move.worker].pool]
                    by_pool[own.name].append(as_stop(move, own))
        for name, wanted in by_pool.items():
            change = change_of(pools[name], wanted)
            if change is not None:
                await self._change(ref, pools[name], change)

    async def close(self) -> None:
        """Close the connection; pods continue to serve without the operator."""
        self._api.close()

    def _nodes_there(self) -> set[str]:
        """Nodes that are ready, so that their terminating pods will end; if Nodes cannot be read, those of all pods."""
        if not self._mirror.sees_nodes:
            return {pod.node for pod in self._mirror.pods}
        return {node.key[1] for node in self._mirror.nodes if node.ready}

    def _pools(self, ref: CascadeRef) -> dict[str, ClusterPool]:
        """The pools of a cascade by name; the caller may change the dictionary."""
        revision = (self._mirror.pods.revision, self._mirror.deployments.revision)
        if self._grouped[0] != revision:
            self._grouped = revision, _grouped(self._mirror.deployments, self._mirror.pods)
        found = self._grouped[1].get(ref, {})
        subject = self._subjects.get(ref)
        return {name: _in_spec(pool, subject) for name, pool in found.items()}

    def _pool_for(self, ref: CascadeRef, start: StartWorker, pools: dict[str, ClusterPool]) -> str:
        """The name of the pool that a worker is started in; if it is new, it is added to ``pools``."""
        variants = self._subjects[ref].cascade.spec.variants
        variant = next(each.name for each in variants if each.weights.digest == start.weights[0])
        name = pool_object_name(ref, variant=variant, accelerator_class=start.accelerator_class)
        if name not in pools:
            on = start.accelerator_class
            pools[name] = ClusterPool(name, start.pool, start.weights[0], variant, on, 0, frozenset(), ())
        return name

    async def _drain(self, ref: CascadeRef, pod: Pod) -> None:
        if pod.terminating_s is not None or pod.draining_s is not None:
            return
        log.info("draining", cascade=str(ref), worker=pod.key[1])
        await self._annotate(
            pod, {ANNOTATION_DRAINING: timestamp(self._clock()), ANNOTATION_DELETION_COST: FIRST_TO_GO}
        )

    async def _change(self, ref: CascadeRef, pool: ClusterPool, change: Change) -> None:
        """Mark pods by their deletion cost, and then change the number: the cluster removes the cheapest pods first."""
        log.info(
            "resizing",
            cascade=str(ref),
            pool=pool.name,
            before=pool.wanted,
            replicas=change.wanted,
            stopping=list(change.condemned),
            kept=list(change.spared),
        )
        by_name = {pod.key[1]: pod for pod in pool.pods}
        for name in change.condemned:
            if by_name[name].draining_s is None:
                await self._annotate(by_name[name], {ANNOTATION_DELETION_COST: FIRST_TO_GO})
        for name in change.spared:
            await self._annotate(by_name[name], {ANNOTATION_DRAINING: None, ANNOTATION_DELETION_COST: None})
        if change.wanted == pool.wanted and change.stopping == pool.stopping:
            return
        manifest = self._manifest(ref, pool, change.wanted, sorted(change.stopping))
        if manifest is not None:
            await self._apply(ref, manifest)
            return
        # The spec no longer has this variant or class: only the number of its replicas is still changed.
        patch: Object = {
            "metadata": {
                "annotations": {
                    ANNOTATION_REPLICAS: str(change.wanted),
                    ANNOTATION_STOPPING: ",".join(sorted(change.stopping)),
                }
            },
            "spec": {"replicas": change.wanted},
        }
        self._mirror.deployments.put(await self._api.merge(DEPLOYMENTS, ref.namespace, pool.name, patch))

    async def _annotate(self, pod: Pod, annotations: Mapping[str, str | None]) -> None:
        patch = {"metadata": {"annotations": dict(annotations)}}
        try:
            self._mirror.pods.put(await self._api.merge(PODS, *pod.key, patch))
        except ApiRefused as refused:
            if refused.status != NOT_FOUND:
                raise

    async def _reconcile_one(self, subject: Subject, deployments: Sequence[Deployment]) -> None:
        # The policy comes first. No pod starts without the document, so no pod ever runs without the policy.
        await self._keep_policy(subject)
        await self._keep_document(subject)
        for deployment in deployments:
            if not deployment.terminating:
                await self._keep_deployment(subject, deployment)

    async def _keep_policy(self, subject: Subject) -> None:
        ref = subject.cascade.ref
        there = self._mirror.network_policies.get((ref.namespace, policy_name(ref)))
        spec = self._settings.worker_network_policy
        if spec is None:
            if there is not None:
                await self._api.delete(NETWORK_POLICIES, *there.key, uid=there.uid)
            return
        key = f"{ref}/{policy_name(ref)}"
        manifest = self._baselines.made(key, subject.uid, lambda: worker_policy(ref, uid=subject.uid, spec=spec))
        if there is not None and _content_of(there.raw) == _content_of(manifest):
            edited = self._baselines.difference(there.raw, manifest)
            if edited is None or not self._may_revert(there.uid):
                return
            self._notice(
                ref,
                Reason.EDIT_REVERTED,
                f"NetworkPolicy {policy_name(ref)}: {edited} was changed and is restored",
            )
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
        same = there is not None and all(there.raw.get(part) == manifest[part] for part in ("data", "binaryData"))
        if not same:
            self._mirror.config_maps.put(await self._api.apply(CONFIG_MAPS, manifest))

    async def _keep_deployment(self, subject: Subject, deployment: Deployment) -> None:
        ref = subject.cascade.ref
        pool = self._pools(ref)[deployment.pool]
        manifest = self._manifest(ref, pool, pool.wanted, sorted(pool.stopping))
        if manifest is None:
            if pool.wanted == 0 and not pool.pods:
                log.info("removing", cascade=str(ref), pool=pool.name)
                await self._api.delete(DEPLOYMENTS, *deployment.key, uid=deployment.uid)
            return
        if self._in_line.get(deployment.uid) == (deployment.version, manifest):
            return
        if deployment.content == manifest["metadata"]["annotations"][ANNOTATION_CONTENT]:
            edited = self._baselines.difference(deployment.raw, manifest)
            if edited is None:
                self._in_line[deployment.uid] = deployment.version, manifest
                return
            if not self._may_revert(deployment.uid):
                return
            self._notice(ref, Reason.EDIT_REVERTED, f"Deployment {pool.name}: {edited} was changed and is restored")
        else:
            log.info("updating", cascade=str(ref), pool=pool.name)
        await self._apply(ref, manifest)

    def _may_revert(self, uid: str) -> bool:
        now = self._clock()
        if now - self._reverted_s.get(uid, 0.0) < REVERT_EVERY_S:
            return False
        self._reverted_s[uid] = now
        return True

    def _manifest(self, ref: CascadeRef, pool: ClusterPool, replicas: int, stopping: Sequence[str]) -> Object | None:
        """The pool's Deployment; None if spec or settings no longer have its variant or class."""
        subject = self._subjects[ref]
        spec = subject.cascade.spec
        variant = next((v for v in spec.variants if v.name == pool.variant), None)
        accelerator_class = self._classes.get(pool.accelerator_class)
        if variant is None or accelerator_class is None:
            return None
        workers = next((w for w in spec.pools_of(variant) if w.accelerator_class == accelerator_class.name), None)
        if workers is None:
            return None

        def build() -> dict[str, Any]:
            return pool_deployment(
                subject.cascade,
                variant,
                workers,
                accelerator_class,
                uid=subject.uid,
                profile=None if subject.profile is None else profile_for(spec, subject.profile.spec),
                settings=self._settings,
                replicas=replicas,
                stopping=stopping,
            )

        key = (subject.cascade, subject.profile, subject.uid, replicas, tuple(stopping))
        return self._baselines.made(f"{ref}/{pool.name}", key, build)

    async def _apply(self, ref: CascadeRef, manifest: Object) -> None:
        """Apply a Deployment; if it was refused, it is offered again only after `REFUSED_PAUSE_S`."""
        name, now = manifest["metadata"]["name"], self._clock()
        content = manifest["metadata"]["annotations"][ANNOTATION_CONTENT]
        refused = self._refused.get((ref, name))
        if refused is not None and refused[0] == content and now - refused[1] < REFUSED_PAUSE_S:
            raise ClusterFailed(f"Deployment {name} was refused a moment ago")
        try:
            applied = await self._api.apply(DEPLOYMENTS, manifest)
        except ApiRefused as error:
            self._refused[ref, name] = content, now
            if error.status in (BAD_REQUEST, UNPROCESSABLE):
                self._notice(ref, Reason.INVALID_SPEC, f"spec.workers: podTemplate: {error}")
            raise
        self._refused.pop((ref, name), None)
        self._baselines.keep(applied, manifest)
        self._mirror.deployments.put(applied)


def _content_of(thing: Mapping[str, Any]) -> str | None:
    """The digest of the wanted content, as noted when the object was applied; None if it was not noted."""
    annotations: Mapping[str, str] = thing["metadata"].get("annotations") or {}
    return annotations.get(ANNOTATION_CONTENT)


def _grouped(deployments: Iterable[Deployment], pods: Iterable[Pod]) -> dict[CascadeRef, dict[str, ClusterPool]]:
    """Pools by cascade and name; pods whose Deployment is gone form a pool whose wanted number is 0."""
    by_pool: dict[tuple[CascadeRef, str], list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.ref is not None:
            by_pool[pod.ref, pod.pool].append(pod)
    pools: dict[CascadeRef, dict[str, ClusterPool]] = defaultdict(dict)

    def add(ref: CascadeRef, of: Deployment | Pod, wanted: int, stopping: frozenset[str], own: Sequence[Pod]) -> None:
        pool = PoolRef(ref.namespace, of.accelerator_class, ref.name)
        pools[ref][of.pool] = ClusterPool(
            of.pool, pool, of.variant, of.variant, of.accelerator_class, wanted, stopping, tuple(own)
        )

    for each in deployments:
        if not each.terminating:
            add(each.ref, each, each.wanted, each.stopping, by_pool.pop((each.ref, each.pool), ()))
    for (ref, _), orphans in by_pool.items():
        add(ref, orphans[0], 0, frozenset(), orphans)
    return pools


def _in_spec(pool: ClusterPool, subject: Subject | None) -> ClusterPool:
    """A pool with the name and the weights that the spec gives it; what the spec no longer has is named as it is."""
    if subject is None:
        return pool
    spec = subject.cascade.spec
    name = next((w.name for w in spec.workers if w.accelerator_class == pool.accelerator_class), pool.ref.name)
    weights = next((v.weights.digest for v in spec.variants if v.name == pool.variant), pool.weights)
    return replace(pool, ref=replace(pool.ref, name=name), weights=weights)

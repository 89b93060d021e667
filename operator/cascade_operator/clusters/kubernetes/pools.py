"""The arithmetic of pools: from a Deployment and its pods to workers, and from moves to a new number. Pure.

Everything that must survive a restart of the operator is in the cluster. The Deployment has the wanted number, the
names of the pods that are to go (``stopping``), and what its newest pods are to host first (``coming``). Each pod has
what its agent is told. So a stop that is asked for twice takes only one pod away, and an operator that was killed in
the middle of a move completes it. What a worker really hosts is what its agent reports.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...agent_reports import FAILED_AFTER, Report, host_states
from ...manifests.pools import GRPC_PORT
from ...snapshot import Host, HostState, Load, PoolRef, StartWorker, StopWorker, Unload, Worker, WorkerState
from .objects import Pod

UNHEARD_S = 60.0
"""For this long, pods of a silent kubelet still count as ready. After an outage of the API server all kubelets are
silent for a while, and the pods of a Node that is really lost are given up earlier. Routers notice by themselves which
replicas do not answer."""
NOWHERE = "0.0.0.0:1"
"""The endpoint of a worker that has no address yet."""
Weights = tuple[str, ...]
"""The digests of what one worker is to host, in the order in which it was asked for."""


@dataclass(frozen=True)
class ClusterPool:
    """The pods of one pool and class as the cluster has them: the wanted number, the names of those that are to go,
    what its newest ones are to host first, and all that exist."""

    name: str
    ref: PoolRef
    accelerator_class: str
    wanted: int = 0
    stopping: frozenset[str] = frozenset()
    coming: tuple[Weights, ...] = ()
    pods: tuple[Pod, ...] = ()

    @property
    def live(self) -> list[Pod]:
        """Pods that are neither terminating nor finished."""
        return [pod for pod in self.pods if pod.terminating_s is None and not pod.finished]

    def leaving(self, pod: Pod) -> bool:
        """Whether a pod goes without a further request: it terminates, or it is to go and exceeds the wanted number."""
        if pod.terminating_s is not None:
            return True
        return pod.key[1] in self.stopping and len(self.live) > self.wanted

    @property
    def due(self) -> tuple[Weights, ...]:
        """What each worker is to host that was told nothing yet, those without a pod included; oldest first.

        The last entries of ``coming`` are those that are still due. A pod that replaces another one may find none that
        was meant for it; then the planner says what is missing.
        """
        told = sum(1 for pod in self.live if pod.told is not None and not self.leaving(pod))
        count = max(self.wanted - told, 0)
        known = self.coming[-count:] if count else ()
        return ((),) * (count - len(known)) + known

    def told(self, pod: Pod) -> Weights:
        """What a pod is to host: what it is told, or else what is due."""
        if pod.told is not None:
            return pod.told
        new = sorted((each for each in self.live if each.told is None), key=lambda each: (each.created_s, each.key))
        return next((weights for each, weights in zip(new, self.due, strict=False) if each.key == pod.key), ())


def workers_of(
    pool: ClusterPool, reports: Mapping[str, Report], *, now: float, nodes: Collection[str], patience_s: float
) -> list[Worker]:
    """The workers of a pool, including those that are wanted but have no pod yet; those that leave come last.

    Args:
        pool: the pool.
        reports: what agents say, by the uid of their pod; those that do not answer are not among them.
        now: Unix seconds.
        nodes: Nodes that exist and are ready; a terminating pod on another Node counts as gone, even if the API server
            still has it.
        patience_s: seconds that a pod may find no Node before it counts as failed.
    """
    there = [pod for pod in pool.pods if not pod.finished and (pod.terminating_s is None or pod.node in nodes)]
    there.sort(key=lambda pod: (pool.leaving(pod), pod.created_s, pod.key[1]))
    missing = pool.wanted - len(pool.live)
    return [_worker(pool, pod, reports.get(pod.uid), now, patience_s) for pod in there] + [
        Worker(
            id=f"{pool.name}-awaited-{index}",
            pool=pool.ref,
            accelerator_class=pool.accelerator_class,
            endpoint=NOWHERE,
            state=WorkerState.STARTING,
            since_s=now,
            hosts=tuple(Host(digest, HostState.LOADING, now) for digest in weights),
        )
        for index, weights in enumerate(pool.due[-missing:] if missing > 0 else ())
    ]


def _worker(pool: ClusterPool, pod: Pod, report: Report | None, now: float, patience_s: float) -> Worker:
    state, since_s, problem = _state(pool, pod, report, now, patience_s)
    # A pod that is not ready has lost the requests that it was serving.
    gone = state is WorkerState.DRAINING and not pod.ready
    return Worker(
        id=pod.key[1],
        pool=pool.ref,
        accelerator_class=pool.accelerator_class,
        endpoint=f"{pod.host}:{GRPC_PORT}" if pod.host else NOWHERE,
        state=state,
        since_s=since_s,
        hosts=tuple(Host(digest, each, since_s) for digest, each in host_states(pool.told(pod), report).items()),
        in_flight={} if gone else None,
        problem=problem,
    )


def _state(
    pool: ClusterPool, pod: Pod, report: Report | None, now: float, patience_s: float
) -> tuple[WorkerState, float, str]:
    """The state of a worker, since when, and what is wrong with one that failed."""
    if pod.terminating_s is not None:
        return WorkerState.DRAINING, pod.terminating_s, ""
    if pod.draining_s is not None:
        return WorkerState.DRAINING, pod.draining_s, ""
    if pool.leaving(pod):
        return WorkerState.DRAINING, now, ""
    if pod.ready or (pod.unheard and now - pod.ready_since_s < UNHEARD_S):
        if report is not None and report.endpoint is not None:
            return WorkerState.READY, pod.ready_since_s, ""
        if report is not None and report.failures > FAILED_AFTER:
            return WorkerState.FAILED, pod.ready_since_s, report.problem
        return WorkerState.STARTING, pod.ready_since_s, ""
    if pod.problem:
        return WorkerState.FAILED, pod.created_s, pod.problem
    if pod.unschedulable_s is not None and now - pod.unschedulable_s > patience_s:
        return WorkerState.FAILED, pod.unschedulable_s, f"no Node had room for it within {patience_s:.0f} s"
    return WorkerState.STARTING, pod.ready_since_s or pod.created_s, ""


@dataclass(frozen=True)
class Change:
    """The effect of moves on one pool.

    Attributes:
        wanted: the new number of pods.
        stopping: the names of all pods that are to go.
        coming: what its newest pods are to host first.
        condemned: those of ``stopping`` that this change adds.
        spared: pods that stay after all.
        told: what pods are to host from now on, by their names.
    """

    wanted: int
    stopping: frozenset[str]
    coming: tuple[Weights, ...]
    condemned: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    told: Mapping[str, Weights] = field(default_factory=dict)

    def resizes(self, pool: ClusterPool) -> bool:
        """Whether the Deployment has to be written; loads and unloads alone never do that."""
        return self.wanted != pool.wanted or bool(self.condemned or self.spared)


def change_of(pool: ClusterPool, moves: Sequence[StartWorker | Load | Unload | StopWorker]) -> Change:
    """The change that the moves make to a pool; moves that were made before change nothing.

    A load makes a pod stay that drains.
    """
    by_name = {pod.key[1]: pod for pod in pool.live}
    wanted, stopping, coming = pool.wanted, {name for name in pool.stopping if name in by_name}, [*pool.due]
    condemned: list[str] = []
    spared: list[str] = []
    told: dict[str, Weights] = {}
    for move in moves:
        if isinstance(move, StartWorker):
            wanted += 1
            coming.append(move.weights)
            continue
        pod = by_name.get(move.worker)
        if pod is None or pool.leaving(pod):
            continue
        name = pod.key[1]
        if isinstance(move, StopWorker):
            wanted = max(wanted - 1, 0)
            stopping.add(name)
            condemned.append(name)
            continue
        others = tuple(digest for digest in told.get(name, pool.told(pod)) if digest != move.weights)
        told[name] = (*others, move.weights) if isinstance(move, Load) else others
        if isinstance(move, Load) and pod.draining_s is not None and name not in spared:
            spared.append(name)
            stopping.discard(name)
    changed = {name: weights for name, weights in told.items() if set(weights) != set(by_name[name].told or ())}
    return Change(wanted, frozenset(stopping), tuple(coming), tuple(condemned), tuple(spared), changed)

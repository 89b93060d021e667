"""The arithmetic of pools: from a Deployment and its pods to workers, and from moves to a new number. Pure.

Everything that must survive a restart of the operator is in the Deployment: the wanted number, and the names of the
pods that are to go (``stopping``). So a stop that is asked for twice takes only one pod away, and an operator that was
killed in the middle of a move completes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...snapshot import Host, HostState, Load, PoolRef, StartWorker, StopWorker, Worker, WorkerState
from .objects import Pod

UNSCHEDULABLE_AFTER_S = 10.0
"""A pod that has found no Node for this long counts as failed: other pods have taken the accelerators."""
UNHEARD_S = 60.0
"""For this long, pods of a silent kubelet still count as ready. After an outage of the API server all kubelets are
silent for a while, and the pods of a Node that is really lost are given up earlier. Routers notice by themselves which
replicas do not answer."""
NOWHERE = "0.0.0.0:1"
"""The endpoint of a worker that has no address yet."""
GRPC_PORT = 8001


@dataclass(frozen=True)
class ClusterPool:
    """The pods of one variant and class as the cluster has them: the wanted number, the names of those that are to go,
    and all that exist. They are workers of the pool ``ref``, and host the weights of the variant."""

    name: str
    ref: PoolRef
    weights: str
    variant: str
    accelerator_class: str
    wanted: int
    stopping: frozenset[str]
    pods: tuple[Pod, ...]

    @property
    def live(self) -> list[Pod]:
        """Pods that are neither terminating nor finished."""
        return [pod for pod in self.pods if pod.terminating_s is None and not pod.finished]

    def leaving(self, pod: Pod) -> bool:
        """Whether a pod goes without a further request: it terminates, or it is to go and exceeds the wanted number."""
        if pod.terminating_s is not None:
            return True
        return pod.key[1] in self.stopping and len(self.live) > self.wanted


def workers_of(pool: ClusterPool, *, now: float, nodes: Collection[str]) -> list[Worker]:
    """The workers of a pool, including those that are wanted but have no pod yet; those that leave come last.

    Args:
        pool: the pool.
        now: Unix seconds.
        nodes: Nodes that exist and are ready; a terminating pod on another Node counts as gone, even if the API server
            still has it.
    """
    there = [pod for pod in pool.pods if not pod.finished and (pod.terminating_s is None or pod.node in nodes)]
    there.sort(key=lambda pod: (pool.leaving(pod), pod.created_s, pod.key[1]))
    missing = pool.wanted - len(pool.live)
    return [_worker(pool, pod, now) for pod in there] + [
        Worker(
            id=f"{pool.name}-awaited-{index}",
            pool=pool.ref,
            accelerator_class=pool.accelerator_class,
            endpoint=NOWHERE,
            state=WorkerState.STARTING,
            since_s=now,
            hosts=(Host(pool.weights, HostState.LOADING, now),),
        )
        for index in range(missing)
    ]


def _worker(pool: ClusterPool, pod: Pod, now: float) -> Worker:
    state, since_s = _state(pool, pod, now)
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    # A pod that is not ready has lost the requests that it was serving.
    gone = state is WorkerState.DRAINING and not pod.ready
    return Worker(
        id=pod.key[1],
        pool=pool.ref,
        accelerator_class=pool.accelerator_class,
        endpoint=f"{host}:{GRPC_PORT}" if host else NOWHERE,
        state=state,
        since_s=since_s,
        hosts=(Host(pool.weights, _HOSTING[state], since_s),),
        in_flight={} if gone else None,
    )


_HOSTING = {
    WorkerState.STARTING: HostState.LOADING,
    WorkerState.READY: HostState.READY,
    WorkerState.DRAINING: HostState.READY,
    WorkerState.FAILED: HostState.FAILED,
}
"""What became of the weights of a pod whose worker is in each state."""


def _state(pool: ClusterPool, pod: Pod, now: float) -> tuple[WorkerState, float]:
    if pod.terminating_s is not None:
        return WorkerState.DRAINING, pod.terminating_s
    if pod.draining_s is not None:
        return WorkerState.DRAINING, pod.draining_s
    if pool.leaving(pod):
        return WorkerState.DRAINING, now
    if pod.ready or (pod.unheard and now - pod.ready_since_s < UNHEARD_S):
        return WorkerState.READY, pod.ready_since_s
    if pod.problem:
        return WorkerState.FAILED, pod.created_s
    if pod.unschedulable_s is not None and now - pod.unschedulable_s > UNSCHEDULABLE_AFTER_S:
        return WorkerState.FAILED, pod.unschedulable_s
    return WorkerState.STARTING, pod.ready_since_s or pod.created_s


@dataclass(frozen=True)
class Change:
    """The effect of moves on one pool.

    It has the new wanted number, the names of all pods that are to go (``stopping``), those that this change adds to
    them (``condemned``), and those that stay after all (``spared``).
    """

    wanted: int
    stopping: frozenset[str]
    condemned: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()


def change_of(pool: ClusterPool, moves: Sequence[StartWorker | Load | StopWorker]) -> Change | None:
    """The change that the moves make to a pool; None if they change nothing.

    A load of the weights that a pod has makes it stay. Other weights need another pod, so that one must go first (see
    `as_stop`), and the successor is started when the accelerator is free.
    """
    by_name = {pod.key[1]: pod for pod in pool.live}
    wanted, stopping = pool.wanted, {name for name in pool.stopping if name in by_name}
    condemned: list[str] = []
    spared: list[str] = []
    for move in moves:
        if isinstance(move, StartWorker):
            wanted += 1
            continue
        pod = by_name.get(move.worker)
        if pod is None or pool.leaving(pod):
            continue
        if isinstance(move, Load):
            if pod.draining_s is not None:
                spared.append(pod.key[1])
                stopping.discard(pod.key[1])
            continue
        wanted = max(wanted - 1, 0)
        stopping.add(pod.key[1])
        condemned.append(pod.key[1])
    if wanted == pool.wanted and not condemned and not spared:
        return None
    return Change(wanted, frozenset(stopping), tuple(condemned), tuple(spared))


def as_stop(move: Load | StopWorker, pool: ClusterPool) -> Load | StopWorker:
    """The same move, except that a load of other weights than the pool's becomes a stop.

    A pod cannot change its weights, so the old pod has to go first.
    """
    return StopWorker(move.worker) if isinstance(move, Load) and move.weights != pool.weights else move

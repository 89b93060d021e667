"""The arithmetic of pools: from a Deployment and its pods to replicas, and from moves to a new number. Pure.

Everything that must survive a restart of the operator is in the Deployment: the wanted number, and the names of the
pods that are to go (``stopping``). So a Stop that is asked for twice takes only one pod away, and an operator that was
killed in the middle of a move completes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ...snapshot import Replica, ReplicaState, Start, Stop
from .objects import Pod

UNSCHEDULABLE_AFTER_S = 10.0
"""A pod that has found no Node for this long counts as failed: other pods have taken the accelerators."""
UNHEARD_S = 60.0
"""For this long, pods of a silent kubelet still count as ready. After an outage of the API server all kubelets are
silent for a while, and the pods of a Node that is really lost are given up earlier. Routers notice by themselves which
replicas do not answer."""
NOWHERE = "0.0.0.0:1"
"""The endpoint of a replica that has no address yet."""
GRPC_PORT = 8001


@dataclass(frozen=True)
class ClusterPool:
    """A pool as the cluster has it: the wanted number, the names of the pods that are to go, and all existing pods."""

    name: str
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


def replicas_of(pool: ClusterPool, *, now: float, nodes: Collection[str]) -> list[Replica]:
    """The replicas of a pool, including those that are wanted but have no pod yet; replicas that leave come last.

    Args:
        pool: the pool.
        now: Unix seconds.
        nodes: Nodes that exist and are ready; a terminating pod on another Node counts as gone, even if the API server
            still has it.
    """
    there = [pod for pod in pool.pods if not pod.finished and (pod.terminating_s is None or pod.node in nodes)]
    there.sort(key=lambda pod: (pool.leaving(pod), pod.created_s, pod.key[1]))
    missing = pool.wanted - len(pool.live)
    return [_replica(pool, pod, now) for pod in there] + [
        Replica(
            id=f"{pool.name}-awaited-{index}",
            accelerator_class=pool.accelerator_class,
            endpoint=NOWHERE,
            variant=pool.variant,
            state=ReplicaState.STARTING,
            since_s=now,
        )
        for index in range(missing)
    ]


def _replica(pool: ClusterPool, pod: Pod, now: float) -> Replica:
    state, since_s = _state(pool, pod, now)
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    # A pod that is not ready has lost the requests that it was serving.
    in_flight = 0 if state is ReplicaState.DRAINING and not pod.ready else None
    return Replica(
        id=pod.key[1],
        accelerator_class=pool.accelerator_class,
        endpoint=f"{host}:{GRPC_PORT}" if host else NOWHERE,
        variant=pool.variant,
        state=state,
        since_s=since_s,
        in_flight=in_flight,
    )


def _state(pool: ClusterPool, pod: Pod, now: float) -> tuple[ReplicaState, float]:
    if pod.terminating_s is not None:
        return ReplicaState.DRAINING, pod.terminating_s
    if pod.draining_s is not None:
        return ReplicaState.DRAINING, pod.draining_s
    if pool.leaving(pod):
        return ReplicaState.DRAINING, now
    if pod.ready or (pod.unheard and now - pod.ready_since_s < UNHEARD_S):
        return ReplicaState.READY, pod.ready_since_s
    if pod.problem:
        return ReplicaState.FAILED, pod.created_s
    if pod.unschedulable_s is not None and now - pod.unschedulable_s > UNSCHEDULABLE_AFTER_S:
        return ReplicaState.FAILED, pod.unschedulable_s
    return ReplicaState.STARTING, pod.ready_since_s or pod.created_s


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


def change_of(pool: ClusterPool, moves: Sequence[Start | Stop]) -> Change | None:
    """The change that the moves make to a pool; None if they change nothing.

    A Start that names one of the pool's own pods makes it stay. A Start that names a pod of another pool concerns only
    that other pool: its pod must go first (see `as_stop`), and the successor is started when the accelerator is free.
    """
    by_name = {pod.key[1]: pod for pod in pool.live}
    wanted, stopping = pool.wanted, {name for name in pool.stopping if name in by_name}
    condemned: list[str] = []
    spared: list[str] = []
    for move in moves:
        if isinstance(move, Start) and move.replica_id is None:
            wanted += 1
            continue
        pod = by_name.get(move.replica_id or "")
        if pod is None or pool.leaving(pod):
            continue
        if isinstance(move, Start):
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


def as_stop(move: Start | Stop, pods: Iterable[Pod]) -> Start | Stop:
    """The same move, except that a Start in place of another variant becomes a Stop.

    A pod cannot change its variant, so the old pod has to go first.
    """
    if not isinstance(move, Start) or move.replica_id is None:
        return move
    held = next((pod for pod in pods if pod.key[1] == move.replica_id), None)
    if held is None or (held.variant, held.accelerator_class) == (move.variant, move.accelerator_class):
        return move
    return Stop(move.cascade, move.replica_id)

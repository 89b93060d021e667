"""Deployments and pods become replicas, and moves become numbers of replicas; nothing is removed twice."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_operator.clusters.kubernetes.objects import Pod, read_pod
from cascade_operator.clusters.kubernetes.pools import ClusterPool, as_stop, change_of, replicas_of
from cascade_operator.manifests.naming import ANNOTATION_DRAINING
from cascade_operator.snapshot import Replica, ReplicaState, Start, Stop
from support.cluster_objects import REF, make_pod, pod_json

NOW = 1_767_225_700.0
SINCE = "2026-01-01T00:01:00Z"


def make_pool(*pods: Pod, wanted: int | None = None, stopping: tuple[str, ...] = ()) -> ClusterPool:
    return ClusterPool("pool", "light", "cpu", len(pods) if wanted is None else wanted, frozenset(stopping), pods)


def replicas(pool: ClusterPool, *, nodes: tuple[str, ...] = ("n1",)) -> list[Replica]:
    return replicas_of(pool, now=NOW, nodes=nodes)


def start(replica: str | None = None, variant: str = "light") -> Start:
    return Start(REF, replica, "cpu", variant)


def stop(replica: str) -> Stop:
    return Stop(REF, replica)


def draining(name: str, **fields: Any) -> Pod:
    return make_pod(name, annotations={ANNOTATION_DRAINING: SINCE}, **fields)


def terminating(name: str, **fields: Any) -> Pod:
    return make_pod(name, deletionTimestamp=SINCE, **fields)


def test_a_ready_pod_is_a_replica_at_its_own_address() -> None:
    (replica,) = replicas(make_pool(make_pod("p1")))
    assert (replica.id, replica.state, replica.endpoint) == ("p1", ReplicaState.READY, "10.0.0.1:8001")
    assert replica.in_flight is None


def test_pods_that_are_not_there_yet_hold_their_accelerators_already() -> None:
    found = replicas(make_pool(make_pod("p1"), wanted=3))
    assert [r.state for r in found] == [ReplicaState.READY, ReplicaState.STARTING, ReplicaState.STARTING]


def test_terminating_pods_hold_theirs_until_they_are_gone() -> None:
    found = replicas(make_pool(terminating("p1"), make_pod("p2"), wanted=1))
    assert [(r.id, r.state) for r in found] == [("p2", ReplicaState.READY), ("p1", ReplicaState.DRAINING)]


def test_a_terminating_pod_on_a_node_that_is_lost_is_gone() -> None:
    found = replicas(make_pool(terminating("p1", node="lost"), make_pod("p2"), wanted=1))
    assert [r.id for r in found] == ["p2"]


def test_a_draining_pod_that_died_has_nothing_left_in_flight() -> None:
    (replica,) = replicas(make_pool(draining("p1", ready=False)))
    assert (replica.state, replica.in_flight) == (ReplicaState.DRAINING, 0)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, ReplicaState.FAILED),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ReplicaState.STARTING),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                             "lastTransitionTime": "2025-12-31T00:00:00Z"}]},
            ReplicaState.FAILED,
        ),
        ({"phase": "Pending"}, ReplicaState.STARTING),
    ],
)  # fmt: skip
def test_what_waiting_does_not_mend_is_failed(status: dict[str, Any], state: ReplicaState) -> None:
    raw = pod_json("p1", ready=False)
    raw["status"] = status
    assert [r.state for r in replicas(make_pool(read_pod(raw)))] == [state]


@pytest.mark.parametrize(("silent_s", "state"), [(5, ReplicaState.READY), (120, ReplicaState.STARTING)])
def test_a_kubelet_that_is_silent_for_a_while_says_nothing_of_its_pods(silent_s: float, state: ReplicaState) -> None:
    raw = pod_json("p1", ready=False)
    raw["status"]["containerStatuses"] = [{"ready": True, "state": {"running": {}}}]
    pod = read_pod(raw)
    (replica,) = replicas_of(make_pool(pod), now=pod.ready_since_s + silent_s, nodes=["n1"])
    assert replica.state is state


def test_a_start_is_one_more_and_a_stop_one_less() -> None:
    pool = make_pool(make_pod("p1"), make_pod("p2"))
    more = change_of(pool, [start(), start()])
    assert more is not None
    assert (more.wanted, more.condemned) == (4, ())
    less = change_of(pool, [stop("p1")])
    assert less is not None
    assert (less.wanted, less.stopping, less.condemned) == (1, {"p1"}, ("p1",))


def test_a_stop_said_again_takes_nothing_more() -> None:
    # The Deployment has the smaller number, but its controller has not taken the pod away yet.
    pool = make_pool(make_pod("p1"), make_pod("p2"), wanted=1, stopping=("p1",))
    assert change_of(pool, [stop("p1")]) is None
    gone = make_pool(terminating("p1"), make_pod("p2"), wanted=1, stopping=("p1",))
    assert change_of(gone, [stop("p1")]) is None


def test_a_stop_that_took_another_pod_instead_is_done_again_or_taken_back() -> None:
    pool = make_pool(draining("p1"), wanted=1, stopping=("p1",))
    again = change_of(pool, [stop("p1")])
    assert again is not None
    assert again.wanted == 0
    kept = change_of(pool, [start("p1")])
    assert kept is not None
    assert (kept.wanted, kept.stopping, kept.spared) == (1, frozenset(), ("p1",))


def test_stops_of_one_tick_add_up() -> None:
    change = change_of(make_pool(make_pod("p1"), make_pod("p2"), make_pod("p3")), [stop("p1"), stop("p3")])
    assert change is not None
    assert (change.wanted, change.stopping) == (1, {"p1", "p3"})


def test_a_start_of_what_a_replica_serves_anyway_changes_nothing() -> None:
    assert change_of(make_pool(make_pod("p1")), [start("p1")]) is None


def test_another_variant_in_place_is_a_stop_first() -> None:
    pods = [make_pod("p1")]
    assert as_stop(start("p1", "heavy"), pods) == stop("p1")
    assert as_stop(start("p1", "light"), pods) == start("p1", "light")
    assert as_stop(start(None, "heavy"), pods) == start(None, "heavy")

"""From Deployments and pods to replicas, and from moves to numbers: nothing is taken away twice."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_operator.clusters.kubernetes.objects import Pod, read_pod
from cascade_operator.clusters.kubernetes.pools import ClusterPool, as_stop, change_of, workers_of
from cascade_operator.manifests.naming import ANNOTATION_DRAINING
from cascade_operator.snapshot import HostState, Load, PoolRef, StartWorker, StopWorker, Worker, WorkerState
from support.cluster_objects import make_pod, pod_json

OWN = PoolRef("default", "cpu", "shapes")
NOW = 1_767_225_700.0
SINCE = "2026-01-01T00:01:00Z"


def make_pool(*pods: Pod, wanted: int | None = None, stopping: tuple[str, ...] = ()) -> ClusterPool:
    count = len(pods) if wanted is None else wanted
    return ClusterPool("pool", OWN, "w1", "light", "cpu", count, frozenset(stopping), pods)


def workers(pool: ClusterPool, *, nodes: tuple[str, ...] = ("n1",)) -> list[Worker]:
    return workers_of(pool, now=NOW, nodes=nodes)


def start() -> StartWorker:
    return StartWorker(OWN, "cpu", ("w1",))


def keep(pod: str) -> Load:
    return Load(pod, "w1")


def stop(pod: str) -> StopWorker:
    return StopWorker(pod)


def draining(name: str, **fields: Any) -> Pod:
    return make_pod(name, annotations={ANNOTATION_DRAINING: SINCE}, **fields)


def terminating(name: str, **fields: Any) -> Pod:
    return make_pod(name, deletionTimestamp=SINCE, **fields)


def test_a_ready_pod_is_a_worker_at_its_own_address() -> None:
    (worker,) = workers(make_pool(make_pod("p1")))
    assert (worker.id, worker.state, worker.endpoint) == ("p1", WorkerState.READY, "10.0.0.1:8001")
    assert worker.in_flight is None


def test_pods_that_are_not_there_yet_hold_their_accelerators_already() -> None:
    found = workers(make_pool(make_pod("p1"), wanted=3))
    assert [r.state for r in found] == [WorkerState.READY, WorkerState.STARTING, WorkerState.STARTING]


def test_terminating_pods_hold_theirs_until_they_are_gone() -> None:
    found = workers(make_pool(terminating("p1"), make_pod("p2"), wanted=1))
    assert [(r.id, r.state) for r in found] == [("p2", WorkerState.READY), ("p1", WorkerState.DRAINING)]


def test_a_terminating_pod_on_a_node_that_is_lost_is_gone() -> None:
    found = workers(make_pool(terminating("p1", node="lost"), make_pod("p2"), wanted=1))
    assert [r.id for r in found] == ["p2"]


def test_a_draining_pod_that_died_has_nothing_left_in_flight() -> None:
    (worker,) = workers(make_pool(draining("p1", ready=False)))
    assert (worker.state, worker.in_flight) == (WorkerState.DRAINING, {})


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, WorkerState.FAILED),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, WorkerState.STARTING),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                             "lastTransitionTime": "2025-12-31T00:00:00Z"}]},
            WorkerState.FAILED,
        ),
        ({"phase": "Pending"}, WorkerState.STARTING),
    ],
)  # fmt: skip
def test_what_waiting_does_not_mend_is_failed(status: dict[str, Any], state: WorkerState) -> None:
    raw = pod_json("p1", ready=False)
    raw["status"] = status
    assert [r.state for r in workers(make_pool(read_pod(raw)))] == [state]


@pytest.mark.parametrize(("silent_s", "state"), [(5, WorkerState.READY), (120, WorkerState.STARTING)])
def test_a_kubelet_that_is_silent_for_a_while_says_nothing_of_its_pods(silent_s: float, state: WorkerState) -> None:
    raw = pod_json("p1", ready=False)
    raw["status"]["containerStatuses"] = [{"ready": True, "state": {"running": {}}}]
    pod = read_pod(raw)
    (worker,) = workers_of(make_pool(pod), now=pod.ready_since_s + silent_s, nodes=["n1"])
    assert worker.state is state


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
    kept = change_of(pool, [keep("p1")])
    assert kept is not None
    assert (kept.wanted, kept.stopping, kept.spared) == (1, frozenset(), ("p1",))


def test_stops_of_one_tick_add_up() -> None:
    change = change_of(make_pool(make_pod("p1"), make_pod("p2"), make_pod("p3")), [stop("p1"), stop("p3")])
    assert change is not None
    assert (change.wanted, change.stopping) == (1, {"p1", "p3"})


def test_a_load_of_what_a_pod_hosts_anyway_changes_nothing() -> None:
    assert change_of(make_pool(make_pod("p1")), [keep("p1")]) is None


def test_other_weights_in_place_are_a_stop_first() -> None:
    pool = make_pool(make_pod("p1"))
    assert as_stop(Load("p1", "w2"), pool) == stop("p1")
    assert as_stop(keep("p1"), pool) == keep("p1")
    assert as_stop(stop("p1"), pool) == stop("p1")


def test_a_pod_hosts_the_weights_of_its_pool() -> None:
    found = workers(make_pool(make_pod("p1"), make_pod("p2", ready=False), wanted=3))
    assert [worker.hosting(HostState.READY) for worker in found] == [("w1",), (), ()]
    assert [worker.hosting(HostState.LOADING) for worker in found] == [(), ("w1",), ("w1",)]
    assert {worker.pool for worker in found} == {OWN}

"""Deployments, pods and reports become workers, and moves become numbers of pods and lists for agents; nothing is
removed twice."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_api.worker_requests import model_of_weights
from cascade_operator.agent_reports import Hosted, Report
from cascade_operator.clusters.kubernetes.inventory import UNSCHEDULABLE_AFTER_S
from cascade_operator.clusters.kubernetes.objects import Pod, read_pod
from cascade_operator.clusters.kubernetes.pools import ClusterPool, change_of, workers_of
from cascade_operator.manifests.naming import ANNOTATION_DRAINING
from cascade_operator.snapshot import HostState, Load, StartWorker, StopWorker, Unload, Worker, WorkerState
from support.cluster_objects import POOL, make_pod, pod_json

NOW = 1_767_225_700.0
SINCE = "2026-01-01T00:01:00Z"


def make_pool(
    *pods: Pod, wanted: int | None = None, stopping: tuple[str, ...] = (), coming: tuple[tuple[str, ...], ...] = ()
) -> ClusterPool:
    count = len(pods) if wanted is None else wanted
    return ClusterPool("pool", POOL, "cpu", count, frozenset(stopping), coming, pods)


def report(endpoint: str | None = "10.0.0.1:8001", *, failures: int = 0, **states: str) -> Report:
    """What an agent says: the states of weights by digest; where they failed, they did so many times."""
    hosts = {
        model_of_weights(digest): Hosted(state, "", 9 if state == "failed" else 0) for digest, state in states.items()
    }
    return Report(1, endpoint, "", failures, hosts)


def workers(
    pool: ClusterPool,
    *,
    nodes: tuple[str, ...] = ("n1",),
    reports: dict[str, Report] | None = None,
    patience_s: float = UNSCHEDULABLE_AFTER_S,
) -> list[Worker]:
    """The workers of a pool in which every agent says that it hosts `w1`, unless there are other reports."""
    said = {pod.uid: report(w1="ready") for pod in pool.pods} if reports is None else reports
    return workers_of(pool, said, now=NOW, nodes=nodes, patience_s=patience_s)


def start() -> StartWorker:
    return StartWorker(POOL, "cpu", ("w1",))


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
    (worker,) = workers_of(
        make_pool(pod), {pod.uid: report()}, now=pod.ready_since_s + silent_s, nodes=["n1"], patience_s=10
    )
    assert worker.state is state


def test_a_start_is_one_more_and_a_stop_one_less() -> None:
    pool = make_pool(make_pod("p1"), make_pod("p2"))
    more = change_of(pool, [start(), start()])
    assert (more.wanted, more.condemned) == (4, ())
    less = change_of(pool, [stop("p1")])
    assert (less.wanted, less.stopping, less.condemned) == (1, {"p1"}, ("p1",))


def test_a_stop_said_again_takes_nothing_more() -> None:
    # The Deployment has the smaller number, but its controller has not taken the pod away yet.
    pool = make_pool(make_pod("p1"), make_pod("p2"), wanted=1, stopping=("p1",))
    assert unchanged(pool, [stop("p1")])
    gone = make_pool(terminating("p1"), make_pod("p2"), wanted=1, stopping=("p1",))
    assert unchanged(gone, [stop("p1")])


def test_a_stop_that_took_another_pod_instead_is_done_again_or_taken_back() -> None:
    pool = make_pool(draining("p1"), wanted=1, stopping=("p1",))
    again = change_of(pool, [stop("p1")])
    assert again.wanted == 0
    kept = change_of(pool, [keep("p1")])
    assert (kept.wanted, kept.stopping, kept.spared) == (1, frozenset(), ("p1",))


def test_stops_of_one_tick_add_up() -> None:
    change = change_of(make_pool(make_pod("p1"), make_pod("p2"), make_pod("p3")), [stop("p1"), stop("p3")])
    assert (change.wanted, change.stopping) == (1, {"p1", "p3"})


def test_a_load_of_what_a_pod_hosts_anyway_changes_nothing() -> None:
    assert unchanged(make_pool(make_pod("p1")), [keep("p1")])


def test_loads_and_unloads_are_told_to_the_agent_and_leave_the_deployment_alone() -> None:
    pool = make_pool(make_pod("p1"), make_pod("p2", told=None))
    change = change_of(pool, [Unload("p1", "w1"), Load("p1", "w2"), Load("p1", "w3"), Load("p2", "w1")])
    assert change.told == {"p1": ("w2", "w3"), "p2": ("w1",)}
    assert not change.resizes(pool)


def test_what_is_unloaded_last_leaves_nothing() -> None:
    change = change_of(make_pool(make_pod("p1")), [Unload("p1", "w1")])
    assert change.told == {"p1": ()}
    (pod,) = make_pool(make_pod("p1", told="")).pods
    assert pod.told == (), "to be told of nothing is to be told"


def test_a_worker_hosts_what_its_agent_says_and_not_what_it_was_told() -> None:
    pool = make_pool(make_pod("p1", told="w1,w2,w3"))
    (worker,) = workers(pool, reports={"uid-p1": report(w1="ready", w2="loading", w3="failed", w4="ready")})
    assert worker.state is WorkerState.READY
    assert {host.weights: host.state for host in worker.hosts} == {
        "w1": HostState.READY, "w2": HostState.LOADING, "w3": HostState.FAILED, "w4": HostState.UNLOADING,
    }  # fmt: skip
    assert worker.pool == POOL


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (None, WorkerState.STARTING),
        (report(None, failures=1), WorkerState.STARTING),
        (report(None, failures=4), WorkerState.FAILED),
    ],
)
def test_without_a_server_that_answers_nothing_is_ready(said: Report | None, state: WorkerState) -> None:
    (worker,) = workers(make_pool(make_pod("p1")), reports={} if said is None else {"uid-p1": said})
    assert (worker.state, worker.hosting(HostState.READY)) == (state, ())
    assert worker.hosting(HostState.LOADING) == ("w1",)


def test_new_workers_are_promised_what_was_asked_for_them() -> None:
    pool = make_pool(
        make_pod("p1"), make_pod("p2", told=None), wanted=4, coming=(("w1",), ("w2",), ("w1", "w3"), ("w4",))
    )
    found = workers(pool, reports={"uid-p1": report(w1="ready")})
    assert [worker.hosting(*HostState) for worker in found] == [("w1",), ("w2",), ("w1", "w3"), ("w4",)]
    change = change_of(pool, [start()])
    assert (change.wanted, change.coming) == (5, (("w2",), ("w1", "w3"), ("w4",), ("w1",)))


def test_a_pod_for_which_nothing_was_asked_hosts_nothing_yet() -> None:
    found = workers(make_pool(make_pod("p1", told=None), wanted=2), reports={"uid-p1": report()})
    assert [(worker.state, worker.hosts) for worker in found] == [(WorkerState.READY, ()), (WorkerState.STARTING, ())]


def unchanged(pool: ClusterPool, moves: list[StopWorker | Load]) -> bool:
    """Whether moves neither write to the Deployment nor to a pod."""
    change = change_of(pool, moves)
    return not change.resizes(pool) and not change.told


def test_a_worker_waits_longer_for_a_node_that_an_autoscaler_makes_and_says_what_it_waited_for() -> None:
    pod = make_pod("p1", node="", ready=False, unschedulable=SINCE)
    waited_s = NOW - (pod.unschedulable_s or 0)
    (patient,) = workers(make_pool(pod), patience_s=waited_s + 1)
    assert (patient.state, patient.problem) == (WorkerState.STARTING, "")
    (failed,) = workers(make_pool(pod))
    assert (failed.state, failed.problem) == (WorkerState.FAILED, "no Node had room for it within 10 s")

"""The accelerators of a cluster: those of its Nodes, less those that other pods request; replicas keep theirs."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from cascade_api.quantities import quantity
from cascade_api.settings import CPU, AcceleratorClass
from cascade_operator.clusters.kubernetes.inventory import count_accelerators, told_accelerators, unprovisioned
from cascade_operator.clusters.kubernetes.objects import Node, Pod
from cascade_operator.snapshot import PoolRef
from support.cluster_objects import ELASTIC, GPU, POOL, make_node, make_pod, make_stranger


def count(nodes: Sequence[Node], pods: Sequence[Pod] = (), *, planned: Sequence[PoolRef] = (POOL,)) -> dict[str, int]:
    return count_accelerators(nodes, pods, classes=[GPU, CPU], planned=planned)


def replica(name: str, *, node: str = "n1") -> Pod:
    return make_pod(name, node=node, accelerator_class="test-gpu", requests={GPU.resource: "1"})


def test_where_nodes_may_not_be_read_the_classes_say_how_many_there_are() -> None:
    pods = [replica("p1"), replica("p2"), make_stranger("a", gpu="3")]
    ten = GPU.model_copy(update={"count": 10})
    assert told_accelerators(pods, classes=[ten, CPU], planned=[POOL]) == {"test-gpu": 10, "cpu": 0}
    two = CPU.model_copy(update={"count": 2})
    assert told_accelerators(pods, classes=[GPU, two], planned=[POOL]) == {"test-gpu": 2, "cpu": 2}, "what runs, runs"
    assert told_accelerators(pods, classes=[GPU, CPU], planned=[POOL]) is None


def test_classes_are_told_apart_by_the_labels_of_their_nodes() -> None:
    assert count([make_node("n1", gpu=8), make_node("n2", cpu="4")]) == {"test-gpu": 8, "cpu": 12}


def test_what_others_ask_for_is_not_there_and_a_part_of_a_core_is_no_core() -> None:
    strangers = [make_stranger("a", gpu="3"), make_stranger("b", cpu="250m")]
    assert count([make_node("n1", gpu=8)], strangers) == {"test-gpu": 5, "cpu": 7}


def test_cores_left_over_on_two_nodes_do_not_make_a_slot() -> None:
    strangers = [make_stranger("a", node="n1", cpu="500m"), make_stranger("b", node="n2", cpu="500m")]
    assert count([make_node("n1", cpu="1"), make_node("n2", cpu="1")], strangers)["cpu"] == 0


def test_workers_of_planned_pools_count_as_theirs() -> None:
    pods = [replica("p1"), replica("p2")]
    assert count([make_node("n1", gpu=4)], pods)["test-gpu"] == 4


def test_the_pods_of_a_deleted_cascade_are_another_s_until_they_are_gone() -> None:
    pods = [replica("p1"), replica("p2")]
    assert count([make_node("n1", gpu=4)], pods, planned=())["test-gpu"] == 2


def test_finished_pods_hold_nothing() -> None:
    stranger = make_stranger("a", gpu="3")
    done = Pod(**{**vars(stranger), "finished": True})
    assert count([make_node("n1", gpu=8)], [done])["test-gpu"] == 8


def test_a_node_that_is_cordoned_or_silent_has_what_runs_on_it() -> None:
    ending = Pod(**{**vars(replica("p3", node="n2")), "terminating_s": 1.0})
    pods = [replica("p1", node="n2"), ending, replica("p2", node="n3")]
    nodes = [make_node("n1", gpu=8), make_node("n2", gpu=8, ready=False), make_node("n3", gpu=8, schedulable=False)]
    assert count(nodes, pods)["test-gpu"] == 8 + 1 + 1


def elastic(nodes: Sequence[Node], pods: Sequence[Pod] = (), *, closed: Sequence[str] = ()) -> int:
    return count_accelerators(nodes, pods, classes=[ELASTIC], planned=[POOL], closed=closed)["test-gpu"]


def test_an_elastic_class_has_what_its_nodes_and_those_that_may_come_have() -> None:
    strangers = [make_stranger("a", gpu="1")]
    assert elastic([]) == 6
    assert elastic([make_node("n1", gpu=4)], strangers) == 6 - 1
    assert elastic([make_node("n1", gpu=8)], strangers) == 8 - 1, "more are there than it says"


def test_while_no_node_comes_an_elastic_class_has_what_is_there() -> None:
    assert elastic([], closed=["test-gpu"]) == 0
    assert elastic([make_node("n1", gpu=4)], closed=["test-gpu"]) == 4


def test_an_elastic_class_needs_no_count_where_nodes_may_not_be_read() -> None:
    assert told_accelerators([], classes=[ELASTIC, CPU], planned=[POOL]) == {"test-gpu": 6, "cpu": 0}
    assert told_accelerators([], classes=[ELASTIC], planned=[POOL], closed=["test-gpu"]) == {"test-gpu": 0}


def test_a_class_is_without_nodes_when_a_worker_waited_for_twice_the_time_that_one_takes() -> None:
    waiting = make_pod("p1", node="", ready=False, accelerator_class="test-gpu", unschedulable="2026-01-01T00:00:00Z")
    since_s = waiting.unschedulable_s
    assert since_s is not None

    def missed(after_s: float, known: AcceleratorClass = ELASTIC) -> set[str]:
        return unprovisioned([waiting], classes={"test-gpu": known}, planned=[POOL], now=since_s + after_s)

    assert missed(119) == set()
    assert missed(121) == {"test-gpu"}
    assert missed(121, GPU) == set(), "nobody makes Nodes of it"


@pytest.mark.parametrize("taint", ["karpenter.sh/disrupted", "ToBeDeletedByClusterAutoscaler"])
def test_a_node_that_is_going_has_what_runs_on_it(taint: str) -> None:
    nodes = [make_node("n1", gpu=8, taint=taint), make_node("n2", gpu=2, taint="example.com/gpu")]
    assert count(nodes, [replica("p1")])["test-gpu"] == 1 + 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("500m", "0.5"),
        ("2Gi", 2**31),
        ("1e3", 1000),
        ("3k", 3000),
        ("1.5", "1.5"),
        ("x", 0),
        ("12E", 12 * 10**18),
    ],
)
def test_quantities(text: str, value: int | str) -> None:
    assert quantity(text) == Decimal(value)

"""The pools in the driver's care: a WorkerPool is that of all cascades that name it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cascade_api.names import CascadeRef
from cascade_api.settings import CPU
from cascade_operator.clusters.kubernetes.tended import TendedPool, tended
from cascade_operator.manifests.pools import SHARED_LEAVE_S, leave_time_s
from cascade_operator.snapshot import PoolRef
from cascade_operator.sources import PoolSubject, Subject
from support.factories import make_cascade, make_profile
from support.pool_world import POOL, on_pool, pool_of, weights_of


def subject(name: str, **fields: str) -> Subject:
    return Subject(on_pool(name, pool=pool_of(), **fields), make_profile(), uid=name)


def shared(*subjects: Subject) -> TendedPool:
    return tended(subjects, [PoolSubject(pool_of(), uid="w")], ())[POOL]


def test_an_agent_is_told_for_all_cascades_of_its_pool_and_nothing_while_a_profile_is_missing() -> None:
    anna, bert = subject("anna"), subject("bert")
    pool = shared(anna, bert)
    weights = sorted(weights_of(anna.cascade) | weights_of(bert.cascade))
    assert pool.known == set(weights)
    assert set(pool.variants(weights)) == {"anna/light", "anna/heavy", "bert/light", "bert/heavy"}
    told = pool.document(weights)
    assert told is not None
    sources = {entry["model"]["source"] for entry in told["variants"]}
    assert sources == {f"hf://test/{name}" for name in ("anna-light", "anna-heavy", "bert-light", "bert-heavy")}
    unknown = shared(anna, replace(bert, profile=None))
    assert unknown.document(weights) is None, "nobody knows what bert's weights need, and they stay"
    assert unknown.document(sorted(weights_of(anna.cascade))) is not None


@pytest.mark.parametrize(
    ("modes", "acts"),
    [((), True), (("auto",), True), (("paused", "auto"), True), (("advisory", "auto"), True), (("paused",), False)],
)
def test_a_pool_is_acted_on_if_one_of_its_cascades_is_in_auto_or_there_is_none(
    modes: tuple[str, ...], acts: bool
) -> None:
    subjects = [subject(f"c{index}", policy__mode=mode) for index, mode in enumerate(modes)]
    assert shared(*subjects).acts == acts


def test_nothing_of_a_worker_pool_s_pods_depends_on_which_cascades_there_are() -> None:
    """Each would replace all pods when a cascade comes or goes."""
    some = [shared(), shared(subject("anna")), shared(subject("anna"), subject("bert", objective__latency="60s"))]
    assert {pool.leave_s for pool in some} == {SHARED_LEAVE_S}
    assert all(pool.workers is not None and not pool.memory(pool.workers, CPU) for pool in some)
    assert len({(pool.owner, pool.workers and pool.workers.model_dump_json()) for pool in some}) == 1
    long = subject("slow", objective__latency="1h")
    assert shared(long).leave_s == leave_time_s(long.cascade.spec), "no request in hand is lost"


def test_a_pool_that_a_cascade_no_longer_has_shrinks_and_what_is_nobody_s_is_left_alone() -> None:
    own = Subject(make_cascade(), make_profile(), uid="u")
    former = PoolRef("default", "former", "shapes")
    found = tended([own], [], [former, PoolRef("default", "gone"), PoolRef("default", "cpu", "gone")])
    assert found.keys() == {PoolRef("default", "cpu", "shapes"), former}
    assert found[former].workers is None
    assert found[former].cascades == [CascadeRef("default", "shapes")]

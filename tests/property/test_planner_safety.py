"""Whatever the demand does and whichever replica dies, the planner keeps its promises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.snapshot import HostState, WorkerState
from support.closed_loop import ClosedLoop
from support.factories import make_cascade

RATES = st.lists(st.sampled_from([0.0, 3.0, 20.0, 42.0, 90.0, 280.0, 400.0, 900.0]), min_size=2, max_size=5)
PHASE_S = 8.0


def loop_of(rates: list[float], *, slots: int, seed: int) -> ClosedLoop:
    return ClosedLoop(
        lambda at: rates[min(int(at / PHASE_S), len(rates) - 1)],
        slots=slots,
        seed=seed,
        cascade=make_cascade(workers={"cpu": slots}),
    )


@given(rates=RATES, slots=st.integers(2, 5), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_every_row_in_force_has_ready_replicas_for_its_stages_at_every_instant(
    rates: list[float], slots: int, seed: int
) -> None:
    loop = loop_of(rates, slots=slots, seed=seed).run(PHASE_S * len(rates))
    assert loop.unserved == []
    assert loop.abandoned == []
    assert loop.cut == []
    assert len(loop.workers) <= slots
    generations = [plan.generation for _, plan in loop.history]
    assert generations == sorted(set(generations))


@given(rates=RATES, slots=st.integers(2, 4), seed=st.integers(0, 1000), dies=st.integers(0, 3), at=st.floats(2, 20))
@settings(max_examples=15)
def test_after_a_death_every_row_is_served_again_within_a_tick(
    rates: list[float], slots: int, seed: int, dies: int, at: float
) -> None:
    loop = loop_of(rates, slots=slots, seed=seed).run(at)
    ready = [worker for worker in loop.workers.values() if worker.hosting(HostState.READY)]
    before = loop.elapsed
    loop.fail(ready[dies % len(ready)].id)
    alone = len(ready) == 1
    loop.run(12)
    late = [instant for instant, _ in loop.unserved if instant > before + (2.0 if alone else 0.6)]
    assert late == []
    assert loop.plan is not None
    assert not [worker for worker in loop.workers.values() if worker.state is WorkerState.FAILED]

"""Whatever happens to the cascades of a WorkerPool, its workers hold what they host, and plans name what is ready."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.snapshot import HostState, WorkerState
from support.pool_world import PoolWorld, on_pool, pool_of

NAMES = ("anna", "bert", "carl", "dora")
RATES = st.sampled_from([0.0, 1.0, 10.0, 60.0])


@st.composite
def happenings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What is so from some ticks on: the cascades that exist, their demands, and those whose profile is missing."""
    return [
        {
            "present": draw(st.sets(st.sampled_from(NAMES), min_size=1)),
            "rates": {name: draw(RATES) for name in NAMES},
            "missing": draw(st.sets(st.sampled_from(NAMES), max_size=1)),
            "ticks": draw(st.integers(1, 6)),
        }
        for _ in range(draw(st.integers(1, 4)))
    ]


@settings(max_examples=12, deadline=None)
@given(happenings(), st.integers(0, 5), st.integers(1, 4), st.integers(0, 2))
def test_workers_hold_what_they_host_and_plans_name_what_is_ready(
    story: list[dict[str, Any]], holds: int, most: int, least: int
) -> None:
    pool = pool_of(workers={"min": min(least, most), "max": most})
    everybody = {name: on_pool(name, pool=pool) for name in NAMES}
    world = PoolWorld([], pool=pool, accelerators=3, holds=holds, slow=True)
    for now in story:
        world.cascades = [everybody[name] for name in sorted(now["present"])]
        world.rates, world.missing_profiles = now["rates"], now["missing"]
        for _ in range(now["ticks"]):
            world.tick()
            assert len(world.workers) <= min(most, 3)
            for worker in world.workers.values():
                assert not holds or len(worker.hosts) <= holds
                assert len({host.weights for host in worker.hosts}) == len(worker.hosts)
            for cascade in world.cascades:
                plan = world.plans.get(cascade.ref)
                if plan is None or cascade.metadata.name in now["missing"]:
                    continue
                for told in plan.workers:
                    worker = world.workers[told.id]
                    served = {plan.variants[name].weights for name, count in told.credits.items() if count}
                    assert worker.state is not WorkerState.STARTING
                    assert served <= set(worker.hosting(HostState.READY)), "credits are for weights that are ready"
    world.missing_profiles = ()
    world.tick(25)
    room = min(most, 3) * (holds or 8)
    for cascade in world.cascades if room >= 2 * len(world.cascades) and holds != 1 else ():
        plan = world.plans[cascade.ref]
        needed = {row.light for row in plan.rows if row.direct < 1}
        served = {name for told in plan.workers for name, count in told.credits.items() if count}
        assert needed <= served, "in the end every cascade is served, where there is memory for all"

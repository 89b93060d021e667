"""Router and simulator drive the same machine alike: one script, the same events and effects in both."""

from __future__ import annotations

from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cascade_api.plan import Plan
from cascade_router.cascade.state import Limits
from support.drivers import END_S, Ask, Call, Script, differences, in_router, in_simulator
from support.router import EASY, HARD, make_plan

VARIANTS = ("shapes-light", "shapes-heavy")
EXECUTION_S = {"shapes-light": 0.25, "shapes-heavy": 1.0}
REPLICAS = 3
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not the shrinking of scripts that fail, which takes minutes: `differences` says where to look."""


def scattered(number: int) -> float:
    """Up to an eighth of a second, in whole multiples of 2^-20 s: no two things happen at once, and sums are exact."""
    return (number * 2654435761 % 2**17) / 2**20


@st.composite
def plans(draw: st.DrawFn, *, overload: str) -> Plan:
    """The replicas of each variant that are planned, and which of them are ready; or a parked cascade."""
    if draw(st.integers(0, 7)) == 0:
        return parked(overload=overload)
    counts = {variant: draw(st.integers(0, REPLICAS)) for variant in VARIANTS}
    return planned(
        counts,
        direct=draw(st.sampled_from([0.0, 0.5, 1.0])),
        escalation=draw(st.sampled_from([0.0, 0.5, 1.0])),
        overload=overload,
        ready={variant: draw(st.integers(0, count)) for variant, count in counts.items()},
    )


def planned(
    counts: dict[str, int],
    *,
    overload: str,
    direct: float = 0.0,
    escalation: float = 1.0,
    ready: dict[str, int] | None = None,
) -> Plan:
    endpoints = {variant: [f"{variant}-{number}:1" for number in range(count)] for variant, count in counts.items()}
    plan = make_plan(
        endpoints,
        direct=direct,
        escalation=escalation,
        batch=1,
        execution_s=EXECUTION_S,
        overload=overload,
        objectiveS=10,
    )
    document: dict[str, Any] = plan.wire()
    for pool in document["pools"]:
        for number, replica in enumerate(pool["replicas"]):
            replica["state"] = "ready" if ready is None or number < ready[pool["variant"]] else "draining"
    return Plan.model_validate(document)


def parked(*, overload: str) -> Plan:
    return make_plan({variant: [] for variant in VARIANTS}, overload=overload, objectiveS=10, parked=True)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    overload = draw(st.sampled_from(["degrade", "strict"]))
    changes = draw(st.lists(st.integers(1, 80), max_size=3, unique=True))
    asks = draw(st.lists(st.tuples(st.integers(0, 60), st.sampled_from([EASY, HARD]), st.integers(0, 9)), max_size=12))
    calls = st.one_of(
        st.tuples(st.integers(1, 16), st.just(True)),
        st.tuples(st.integers(1, 32), st.booleans()),
        st.just((int(8 * END_S) + 1, True)),
    )
    return Script(
        plans=[
            (at / 8 + scattered(100 + number) if number else 0.0, draw(plans(overload=overload)))
            for number, at in enumerate([0, *sorted(changes)])
        ],
        asks=[
            Ask(at / 8 + scattered(number + 1), f"{text} {number}", confidence / 10 + number / 1000)
            for number, (at, text, confidence) in enumerate(sorted(asks))
        ],
        calls={
            f"{variant}-{number}": [
                Call(seconds / 8 + scattered(1000 + 97 * number + 31 * index + len(variant)), makes)
                for index, (seconds, makes) in enumerate(draw(st.lists(calls, min_size=1, max_size=4)))
            ]
            for variant in VARIANTS
            for number in range(REPLICAS)
        },
        probes=[at / 4 + scattered(500 + at) for at in range(draw(st.sampled_from([0, 40])))],
        limits=Limits(waiting=draw(st.sampled_from([1, 3, 100])), in_hand=draw(st.sampled_from([3, 100]))),
    )


@settings(max_examples=200, deadline=None, phases=PHASES)
@given(scripts())
def test_both_drivers_hear_and_do_the_same(script: Script) -> None:
    assert differences(in_router(script), in_simulator(script)) == []

"""Router and simulator drive the same machine alike: one script, the same events and effects in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from cascade_api.plan import Plan
from cascade_router.cascade.decisions import Refuse
from cascade_router.cascade.effects import Answer, Exchange, Release
from cascade_router.cascade.events import Arrived, Begun, Cancelled, Granted
from cascade_router.cascade.state import Limits
from support.drivers import END_S, Ask, Call, Line, Script, differences, in_router, in_simulator
from support.router import EASY, HARD, make_plan

VARIANTS = ("shapes-light", "shapes-heavy")
EXECUTION_S = {"shapes-light": 0.25, "shapes-heavy": 1.0}
REPLICAS = 3
FAILS = st.tuples(st.integers(1, 8), st.just(False))
MAKES, FAILING = Call(0.25, makes=True), Call(0.25, makes=False)
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
    counts = {variant: draw(st.sampled_from([2, 1, REPLICAS, 0])) for variant in VARIANTS}
    chain = draw(st.sampled_from([VARIANTS, VARIANTS, VARIANTS, VARIANTS[:1], VARIANTS[1:]]))
    return planned(
        counts,
        chain=chain,
        direct=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) if len(chain) == 2 else 1.0,
        escalation=draw(st.sampled_from([1.0, 0.9, 0.5, 0.0])) if len(chain) == 2 else 0.0,
        overload=overload,
        ready={variant: max(count - draw(st.sampled_from([0, 0, 0, 1, 3])), 0) for variant, count in counts.items()},
    )


def planned(
    counts: dict[str, int],
    *,
    overload: str,
    chain: Sequence[str] = VARIANTS,
    direct: float = 0.0,
    escalation: float = 1.0,
    ready: dict[str, int] | None = None,
) -> Plan:
    endpoints = {variant: [f"{variant}-{number}:1" for number in range(count)] for variant, count in counts.items()}
    plan = make_plan(
        endpoints,
        chain=chain,
        direct=direct,
        escalation=escalation,
        batch=1,
        execution_s=EXECUTION_S,
        overload=overload,
        objectiveS=10,
    )
    document: dict[str, Any] = plan.wire()
    for worker in document["workers"]:
        (variant,), number = worker["credits"], int(worker["id"].rpartition("-")[2])
        worker["state"] = "ready" if ready is None or number < ready[variant] else "draining"
    return Plan.model_validate(document)


def parked(*, overload: str) -> Plan:
    return make_plan({variant: [] for variant in VARIANTS}, overload=overload, objectiveS=10, parked=True)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    overload = draw(st.sampled_from(["degrade", "strict"]))
    changes = draw(st.lists(st.integers(1, 80), max_size=3, unique=True))
    ask = st.tuples(
        st.integers(0, 60), st.sampled_from([EASY, HARD]), st.integers(0, 9), st.sampled_from([1, 1, 1, 2, 4])
    )
    asks = draw(st.lists(ask, min_size=1, max_size=16))
    quick, slow, hangs = st.integers(1, 4), st.integers(4, 32), st.just(int(8 * END_S) + 1)
    calls = st.one_of(*(st.tuples(took, st.just(True)) for took in (quick, quick, quick, slow, hangs)), FAILS)
    return Script(
        plans=[
            (at / 8 + scattered(100 + number) if number else 0.0, draw(plans(overload=overload)))
            for number, at in enumerate([0, *sorted(changes)])
        ],
        asks=[
            Ask(at / 8 + scattered(number + 1), f"{text} {number}", confidence / 10 + number / 1000, images)
            for number, (at, text, confidence, images) in enumerate(sorted(asks))
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
        limits=Limits(waiting=draw(st.sampled_from([100, 100, 3, 1])), in_hand=draw(st.sampled_from([100, 100, 3]))),
    )


def alone(variant: str, *, overload: str, calls: Sequence[Call]) -> Script:
    """One request of a chain of one variant, which has one replica; the other variant has one too."""
    plan = planned(dict.fromkeys(VARIANTS, 1), chain=[variant], direct=1.0, escalation=0.0, overload=overload)
    return Script(
        plans=[(0.0, plan)],
        asks=[Ask(0.5, EASY, 0.1)],
        calls={f"{name}-0": calls if name == variant else [MAKES] for name in VARIANTS},
        probes=[3.0],
        limits=Limits(waiting=100, in_hand=100),
    )


def worst(*, overload: str, direct: float, replicas: int, light: Sequence[Call], heavy: Sequence[Call]) -> Script:
    """One request, and replicas that fail; each is probed and back three seconds later."""
    counts = dict.fromkeys(VARIANTS, replicas)
    calls = {"shapes-light": light, "shapes-heavy": heavy}
    return Script(
        plans=[(0.0, planned(counts, direct=direct, escalation=1.0, overload=overload))],
        asks=[Ask(0.5, EASY, 0.1)],
        calls={
            f"{variant}-{number}": [call] if replicas > 1 else calls[variant]
            for variant in VARIANTS
            for number, call in enumerate(calls[variant][:replicas])
        },
        probes=[3.0],
        limits=Limits(waiting=100, in_hand=100),
    )


@example(worst(overload="strict", direct=0.0, replicas=1, light=[MAKES], heavy=[FAILING, MAKES]))
@example(worst(overload="degrade", direct=0.0, replicas=1, light=[MAKES], heavy=[FAILING, MAKES]))
@example(worst(overload="degrade", direct=1.0, replicas=3, light=[FAILING, FAILING, MAKES], heavy=[FAILING] * 3))
@example(alone("shapes-light", overload="degrade", calls=[MAKES]))
@example(alone("shapes-light", overload="degrade", calls=[FAILING, MAKES]))
@example(alone("shapes-heavy", overload="strict", calls=[FAILING] * 8))
@settings(max_examples=200, deadline=None, phases=PHASES)
@given(scripts())
def test_both_drivers_hear_and_do_the_same(script: Script) -> None:
    router, simulator = in_router(script), in_simulator(script)
    found = differences(router, simulator)
    assert not found, "\n".join(found)
    for steps in simulator.values():
        check(steps, allowed_s=10.0)


def check(steps: Sequence[Line], *, allowed_s: float) -> None:
    """A request ends once and in time, and gives back every grant that it was given, one before the next.

    If a call is refused because of one image, the others hear so before they have asked for anything.
    """
    if isinstance(steps[-1][1], Cancelled):
        assert all(isinstance(event, Arrived | Begun | Cancelled) for _, event, _ in steps)
        return
    effects = [(at, effect) for at, _, asked in steps for effect in asked]
    ends = [at for at, effect in effects if isinstance(effect, Answer | Refuse)]
    assert ends == [effects[-1][0]]
    assert ends[0] <= steps[0][0] + allowed_s + 1e-9
    held = 0
    for _, event, asked in steps:
        held += isinstance(event, Granted)
        assert held <= 1
        held -= sum(isinstance(effect, Release | Exchange) for effect in asked)
    assert held == 0

"""The mixtures that are looked up are those that OR-Tools finds by solving, for any rows and any limits."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade_operator.planning.allocation.frontier import Row
from cascade_operator.planning.allocation.mixtures import Limits, Mixer
from cascade_operator.planning.allocation.programs import LinearProgram, SolveStatus
from cascade_operator.planning.allocation.stages import SHED_PRICE

PERCENT = st.integers(0, 100).map(lambda percent: percent / 100)
STEPS = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0])
ROWS = st.lists(st.tuples(PERCENT | STEPS, PERCENT | STEPS), min_size=1, max_size=14, unique=True)
GAINS = st.integers(-60, 1000).map(lambda milli: milli / 1000) | st.sampled_from([0.0, 0.5, 1.0])
LIMIT = st.sampled_from([0.0, 1e-7, 0.5, 1.0, 1e9]) | st.floats(0, 1.5)


def loads(row: Row) -> Limits:
    return row.light_load, row.heavy_load, row.direct


def solved(rows: list[Row], gains: list[float], limits: Limits) -> float:
    """The optimum by a linear program."""
    program = LinearProgram(integer=False)
    shares = {program.variable(value=gain): row for gain, row in zip(gains, rows, strict=True)}
    shed = program.variable(value=-SHED_PRICE)
    program.equal(dict.fromkeys([*shares, shed], 1.0), 1.0)
    for index, limit in enumerate(limits):
        program.at_most({variable: loads(row)[index] for variable, row in shares.items()}, limit)
    answer = program.solve()
    assert answer.status is SolveStatus.OPTIMAL
    return answer.objective


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Row], list[float], Limits]:
    points = draw(ROWS)
    gains = draw(st.lists(GAINS, min_size=len(points), max_size=len(points)))
    rows = [Row(("a", "b"), direct, escalation, gain) for (direct, escalation), gain in zip(points, gains, strict=True)]
    return rows, gains, (draw(LIMIT), draw(LIMIT), draw(LIMIT))


ON_ONE_LINE = [Row(("a", "b"), 0.1 * i, 0.0, 0.1 * i) for i in range(11)]
"""Every mixture of them is as good as any other of the same load."""


@given(case=cases())
@example(case=(ON_ONE_LINE, [row.value for row in ON_ONE_LINE], (0.6, 0.55, 0.5)))
@settings(max_examples=300)
def test_the_best_mixture_is_found(case: tuple[list[Row], list[float], Limits]) -> None:
    rows, gains, limits = case
    mixer = Mixer(rows, gains, shed_price=SHED_PRICE)
    best = solved(rows, gains, limits)
    # What a millionth of the load is worth where it would be shed: the linear solver's own tolerance.
    tolerance = 1e-6 * SHED_PRICE
    assert mixer.score(limits) == pytest.approx(best, abs=tolerance)

    shares, shed = mixer.shares(limits)
    amounts = [share for _, share in shares]
    assert len(shares) <= 3
    assert all(amount > 0 for amount in amounts)
    assert sum(amounts) + shed == pytest.approx(1, abs=1e-5)
    for index, limit in enumerate(limits):
        assert sum(share * loads(rows[number])[index] for number, share in shares) <= limit + 1e-6
    worth = sum(share * gains[number] for number, share in shares) - SHED_PRICE * shed
    assert worth == pytest.approx(best, abs=3e-6 * SHED_PRICE)


@given(case=cases())
@settings(max_examples=30)
def test_the_same_limits_have_the_same_mixture(case: tuple[list[Row], list[float], Limits]) -> None:
    rows, gains, limits = case
    answers = [Mixer(rows, gains, shed_price=SHED_PRICE).shares(limits) for _ in range(2)]
    assert answers[0] == answers[1]

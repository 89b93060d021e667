"""Cascades that use workers, drawn at random for the oracles of the allocation."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from cascade_operator.planning.allocation.frontier import Chain, Row
from cascade_operator.planning.allocation.hull import Hull, hull_of
from cascade_operator.planning.allocation.latency import BatchService
from cascade_operator.planning.allocation.sets import User
from cascade_operator.planning.allocation.stages import Column, Role, Stages

CLASS, NAMES = "gpu", "abc"
SECONDS = st.integers(1, 300).map(lambda hundredths: hundredths / 100)
PERCENT = st.integers(0, 100).map(lambda percent: percent / 100)
ROWS = st.lists(st.tuples(PERCENT, PERCENT, PERCENT), min_size=1, max_size=4)
CHAINS = (("a", "b"), ("a", "c"), ("b", "c"))


def column(variant: str, role: Role, seconds: float) -> Column:
    return Column(variant, CLASS, role, BatchService(1, seconds, seconds), reserve=0.0, direct_reserve=0.0)


@st.composite
def hulls(draw: st.DrawFn) -> Hull:
    seconds = {name: draw(SECONDS) for name in NAMES}
    chains = draw(st.lists(st.sampled_from(CHAINS), min_size=1, max_size=3, unique=True))
    stages = [
        Stages(
            Chain(chain, tuple(Row(chain, *point) for point in draw(ROWS))),
            (column(chain[0], Role.LIGHT, seconds[chain[0]]), column(chain[1], Role.HEAVY, seconds[chain[1]])),
        )
        for chain in chains
    ]
    floor = draw(st.sampled_from([math.inf, math.inf, 0.2, 0.5, 0.8]))
    return hull_of(stages, weights={name: name for name in NAMES}, accelerator_class=CLASS, floor=floor)


@st.composite
def users(draw: st.DrawFn) -> User:
    """A cascade whose weights may be those of another one, too."""
    hull = draw(hulls())
    return User(
        hull,
        hull.rows,
        demand=draw(st.floats(0.1, 6)),
        utilisation=draw(st.sampled_from([1.0, 0.8])),
        weight=draw(st.sampled_from([1.0, 3.0])),
        most=draw(st.sampled_from([math.inf, 1.0, 0.5])),
    )

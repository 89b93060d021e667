"""The allocation is as good as trying everything, on instances small enough to try everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade_api.reasons import Reason
from cascade_operator.planning.allocation.problem import PoolKey, PoolSize
from cascade_operator.planning.allocation.solver import ACCELERATOR_PRICE, BATCH_PRICE, FIRST_START_PRICE
from cascade_operator.planning.allocation.stages import SHED_PRICE, Column, Role, Stages
from cascade_operator.planning.allocation.verdicts import FLOOR_TOLERANCE
from support.problems import STEPS, Instance

UTILISATION = {Role.LIGHT: 0.95, Role.HEAVY: 0.95}
TOLERANCE = 5e-6


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    def values() -> list[int]:
        return [draw(st.integers(0, 1000)) for _ in range(len(STEPS) ** 2)]

    alone = [name for name in ("a", "b") if draw(st.booleans())]
    light = draw(st.floats(0.05, 0.5))
    heavy = draw(st.floats(0.5, 2.5))
    return Instance(
        seconds={"a": {"gpu": light}, "b": {"gpu": heavy}},
        accelerators={"gpu": draw(st.integers(1, 4))},
        values={("a", "b"): values()} | {(name,): [draw(st.integers(0, 1000))] for name in alone},
        batch_exponent=draw(st.sampled_from([0.5, 0.9, 1.2])),
        overload=draw(st.sampled_from(["degrade", "strict"])),
        prices={"gpu": "1"} if draw(st.booleans()) else {},
    )


def exact(stages: Stages, columns: Mapping[Column, int], demand: float) -> tuple[float, float]:
    """The best quality of what is served, and the share shed, for given replicas: every basis of the linear program."""
    rows = stages.chain.rows
    capacity = {}
    for role in Role:
        own = [(c, n) for c, n in columns.items() if c.role is role]
        busy = UTILISATION[role] * sum(c.rate * n for c, n in own)
        capacity[role] = max(min(busy, sum(c.rate * (n - c.reserve) for c, n in own)), 0.0)
    # Where a light stage runs it stands in for direct prompts that come too late.
    firm = capacity[Role.HEAVY]
    if not capacity[Role.LIGHT]:
        idle = sum(c.rate * (n - c.direct_reserve) for c, n in columns.items() if c.role is Role.HEAVY)
        firm = max(min(firm, idle), 0.0)
    # Columns: rows, shed, slacks of the light, heavy and direct limits. Rows: shares add up, the three limits.
    matrix = np.array(
        [
            [1.0] * len(rows) + [1.0, 0, 0, 0],
            [r.light_load for r in rows] + [0.0, 1, 0, 0],
            [r.heavy_load for r in rows] + [0.0, 0, 1, 0],
            [r.direct for r in rows] + [0.0, 0, 0, 1],
        ]
    )
    right = np.array([1.0, capacity[Role.LIGHT] / demand, capacity[Role.HEAVY] / demand, firm / demand])
    gain = np.array([r.value for r in rows] + [-SHED_PRICE, 0, 0, 0])
    bases = np.array(list(itertools.combinations(range(matrix.shape[1]), 4)))
    stacked = matrix[:, bases].transpose(1, 0, 2)
    regular = np.abs(np.linalg.det(stacked)) > 1e-9
    solved = np.linalg.solve(stacked[regular], np.broadcast_to(right, (regular.sum(), 4))[..., None])[..., 0]
    feasible = (solved >= -1e-9).all(axis=1)
    scores = (solved[feasible] * gain[bases[regular][feasible]]).sum(axis=1)
    at = int(scores.argmax())
    shed = float(solved[feasible][at][bases[regular][feasible][at] == len(rows)].sum())
    return float(scores[at]) + SHED_PRICE * shed, shed


def everything(stages: Stages, accelerators: int) -> Iterator[dict[Column, int]]:
    """Every choice of batch and replicas of all stages within the accelerators."""
    of_roles = [columns for role in Role if (columns := stages.of(role))]
    for columns in itertools.product(*of_roles):
        for numbers in itertools.product(range(accelerators + 1), repeat=len(columns)):
            if sum(numbers) <= accelerators:
                yield dict(zip(columns, numbers, strict=True))


def worth(
    instance: Instance, stages: Stages, columns: Mapping[Column, int], demand: float, floor: float = math.inf
) -> float:
    quality, shed = exact(stages, columns, demand)
    score = min(quality, floor) - SHED_PRICE * shed
    score -= sum(BATCH_PRICE * float(np.log2(c.service.batch)) for c, n in columns.items() if n)
    score -= FIRST_START_PRICE * sum(columns.values())
    return score - (ACCELERATOR_PRICE * sum(columns.values()) if instance.prices else 0.0)


ESCALATIONS_ALONE = Instance(
    seconds={"a": {"gpu": 0.5}, "b": {"gpu": 2.0}},
    accelerators={"gpu": 4},
    values={("a", "b"): [0, 0, 1, 0, 0, 0, 0, 0, 0]},
    batch_exponent=0.5,
)
"""The heavy pool can keep its promise to escalations, but without a light one to nothing direct."""


ALONE = Instance(
    seconds={"a": {"gpu": 0.5}, "b": {"gpu": 2.0}},
    accelerators={"gpu": 4},
    values={("a",): [200], ("b",): [900]},
)
"""No chain of two: each variant is one alone."""


@given(instance=instances(), demand=st.floats(0.2, 60))
@example(instance=ESCALATIONS_ALONE, demand=1.0)
@example(instance=ALONE, demand=0.5)
@example(instance=ALONE, demand=3.0)
@example(instance=ALONE, demand=30.0)
@settings(max_examples=40)
def test_nothing_better_exists(instance: Instance, demand: float) -> None:
    problem = instance.cascade_problem(demand=demand)
    best = max(
        worth(instance, stages, columns, demand)
        for stages in problem.stages
        for columns in everything(stages, instance.accelerators["gpu"])
    )
    answer = instance.allocate(demand=demand)
    chosen = [(stages, columns_of(stages, answer.pools)) for stages in problem.stages]
    found = max(worth(instance, *each, demand) for each in chosen if len(each[1]) == len(answer.pools))
    assert found >= best - TOLERANCE
    assert len(answer.mixture) <= 4 if answer.shed else len(answer.mixture) <= 3


@given(instance=instances(), demand=st.floats(0.2, 60), thousandths=st.integers(0, 1000))
@example(instance=ALONE, demand=0.5, thousandths=500)
@example(instance=ALONE, demand=3.0, thousandths=300)
@settings(max_examples=40)
def test_a_floor_is_held_with_the_fewest_accelerators(instance: Instance, demand: float, thousandths: int) -> None:
    instance = replace(instance, floor=f"{thousandths / 1000:.3f}")
    (problem,) = instance.problem(demand=demand).cascades
    assert problem.floor is not None
    tried = [
        (stages, columns) for stages in problem.stages for columns in everything(stages, instance.accelerators["gpu"])
    ]
    best = max(worth(instance, *each, demand, problem.floor) for each in tried)
    answer = instance.allocate(demand=demand)
    chosen = [(stages, columns_of(stages, answer.pools)) for stages in problem.stages]
    found = max(worth(instance, *each, demand, problem.floor) for each in chosen if len(each[1]) == len(answer.pools))
    assert found >= best - TOLERANCE
    exacts = [(*exact(*each, demand), sum(each[1].values())) for each in tried]
    hold = [count for quality, shed, count in exacts if quality >= problem.floor + 1e-6 and shed < 1e-9]
    if hold:
        assert answer.verdict is Reason.OPTIMAL
        assert answer.value >= problem.floor - FLOOR_TOLERANCE
        assert not instance.prices or sum(pool.replicas for pool in answer.pools.values()) <= min(hold)
    elif not answer.shed and answer.value < problem.floor - FLOOR_TOLERANCE:
        assert answer.verdict is Reason.QUALITY_BELOW_FLOOR


def columns_of(stages: Stages, pools: Mapping[PoolKey, PoolSize]) -> dict[Column, int]:
    return {
        column: pools[column.variant, column.accelerator_class].replicas
        for column in stages.columns
        if (column.variant, column.accelerator_class) in pools
        and pools[column.variant, column.accelerator_class].batch == column.service.batch
    }

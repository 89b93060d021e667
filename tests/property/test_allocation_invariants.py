"""What is true of every allocation, for any instance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_api.reasons import Reason
from cascade_operator.planning.allocation.latency import waiting
from cascade_operator.planning.allocation.problem import Allocation, CascadeProblem
from cascade_operator.planning.allocation.shares import best_sharing, running_columns
from cascade_operator.planning.allocation.solver import allocate
from cascade_operator.planning.allocation.stages import Role
from support.problems import STEPS, Instance

CLASSES = ("small", "large")
VARIANTS = ("a", "b", "c")
DEMANDS = st.floats(0.2, 80)


@st.composite
def instances(draw: st.DrawFn, *, overload: str | None = None) -> Instance:
    def values() -> list[int]:
        return sorted(draw(st.lists(st.integers(0, 1000), min_size=9, max_size=9)))

    assert len(STEPS) ** 2 == 9
    names = VARIANTS[: draw(st.integers(2, 3))]
    base = {"a": draw(st.floats(0.05, 0.3)), "b": draw(st.floats(0.3, 1.0)), "c": draw(st.floats(1.0, 3.0))}
    seconds = {name: {"small": base[name], "large": base[name] / 2} for name in names}
    return Instance(
        seconds=seconds,
        accelerators={"small": draw(st.integers(1, 6)), "large": draw(st.integers(0, 3))},
        values={(x, y): values() for i, x in enumerate(names) for y in names[i + 1 :]},
        batch_exponent=draw(st.sampled_from([0.6, 1.0])),
        prices={"small": "1", "large": "3"} if draw(st.booleans()) else {"small": "0", "large": "0"},
        budgets={name: draw(st.sampled_from(["2", "5", "9"])) for name in CLASSES if draw(st.booleans())},
        overload=overload or draw(st.sampled_from(["degrade", "strict"])),
    )


def score(problem: CascadeProblem, answer: Allocation) -> float:
    return best_sharing(problem, answer.pools).score


@given(instance=instances(), demand=DEMANDS)
@settings(max_examples=40)
def test_ceilings_are_never_exceeded(instance: Instance, demand: float) -> None:
    answer = instance.allocate(demand=demand)
    used = Counter[str]()
    for (_, accelerator_class), pool in answer.pools.items():
        used[accelerator_class] += pool.replicas
    assert all(used[name] <= count for name, count in instance.accelerators.items())
    cost = sum(float(instance.prices[name]) * count for name, count in used.items())
    assert answer.cost_per_hour == pytest.approx(cost)
    for name, budget in instance.budgets.items():
        assert used[name] * float(instance.prices[name]) <= float(budget) + 1e-9


@given(instance=instances(overload="strict"), demand=DEMANDS)
@settings(max_examples=40)
def test_stages_are_never_under_provisioned_when_nothing_is_shed(instance: Instance, demand: float) -> None:
    answer = instance.allocate(demand=demand)
    if answer.verdict in (Reason.LOAD_SHED, Reason.NO_CAPACITY):
        return
    assert sum(p.share for p in answer.mixture) == pytest.approx(1)
    problem = instance.cascade_problem(demand=demand)
    chain = {p.row.chain for p in answer.mixture}
    assert len(chain) == 1
    stages = next(s for s in problem.stages if s.chain.chain in chain)
    for role, load in (
        (Role.LIGHT, demand * sum(p.share * p.row.light_load for p in answer.mixture)),
        (Role.HEAVY, demand * sum(p.share * p.row.heavy_load for p in answer.mixture)),
    ):
        running = running_columns(stages, role, answer.pools)
        capacity = sum(column.rate * replicas for column, replicas in running)
        assert load <= 0.95 * capacity + 1e-4
        if len(running) == 1 and load > 0:
            column, replicas = running[0]
            wait = waiting(load=load, service=column.service, replicas=replicas)
            # Whatever the split of the slack between the stages, no stage may take all of it.
            assert wait.beyond(6.0 - column.service.p95_s) <= 0.005 + 1e-6


@given(instance=instances(), demand=DEMANDS, extra=st.integers(1, 3))
@settings(max_examples=30)
def test_more_accelerators_are_never_worse(instance: Instance, demand: float, extra: int) -> None:
    richer = replace(instance, accelerators={n: c + extra for n, c in instance.accelerators.items()})
    fewer, more = instance.allocate(demand=demand), richer.allocate(demand=demand)
    assert (
        score(richer.cascade_problem(demand=demand), more)
        >= score(instance.cascade_problem(demand=demand), fewer) - 2e-3
    )


@given(instance=instances(), demand=DEMANDS, part=st.floats(0.2, 0.95))
@settings(max_examples=30)
def test_less_load_is_never_worse(instance: Instance, demand: float, part: float) -> None:
    full, lighter = instance.allocate(demand=demand), instance.allocate(demand=demand * part)
    assert (
        score(instance.cascade_problem(demand=demand * part), lighter)
        >= score(instance.cascade_problem(demand=demand), full) - 2e-3
    )


@given(instance=instances(), demand=DEMANDS)
@settings(max_examples=30)
def test_what_runs_is_kept_where_it_is_as_good_as_anything(instance: Instance, demand: float) -> None:
    first = instance.allocate(demand=demand)
    again = instance.allocate(demand=demand, running={key: pool.replicas for key, pool in first.pools.items()})
    assert again.switches == 0


@given(instance=instances(), demand=DEMANDS)
@settings(max_examples=15)
def test_the_same_problem_has_the_same_answer(instance: Instance, demand: float) -> None:
    problem = instance.problem(demand=demand)
    assert allocate(problem) == allocate(problem)

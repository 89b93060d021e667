"""The allocation on several classes, and of several cascades: as good as trying everything, within every ceiling."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_operator.planning.allocation.problem import Allocation, CascadeProblem, PoolKey, PoolSize
from cascade_operator.planning.allocation.shares import best_sharing
from cascade_operator.planning.allocation.solver import (
    ACCELERATOR_PRICE,
    BATCH_PRICE,
    FIRST_START_PRICE,
    SHARED_GAP,
    SHORTAGE_PRICE,
    allocate,
)
from support.problems import STEPS, Instance, shared

CLASSES = ("small", "large")
VARIANTS = ("a", "b")
BATCHES = (1, 4)
TOLERANCE = 3e-5
"""Of the solver, and of what keeping a replica for nothing is worth."""
DEMANDS = st.floats(0.2, 40)
Pools = dict[PoolKey, PoolSize]


@st.composite
def instances(draw: st.DrawFn, *, name: str = "case") -> Instance:
    light, heavy = draw(st.floats(0.05, 0.5)), draw(st.floats(0.5, 2.5))
    priced = draw(st.booleans())
    min_hosts = {variant: draw(st.sampled_from([0, 0, 0, 1])) for variant in VARIANTS}
    counts = {"small": draw(st.integers(max(sum(min_hosts.values()), 1), 3)), "large": draw(st.integers(0, 2))}
    budgets = {name: draw(st.sampled_from(["1", "3", "4", "6"])) for name in CLASSES if draw(st.booleans())}
    return Instance(
        seconds={"a": {"small": light, "large": light / 2}, "b": {"small": heavy, "large": heavy / 2}},
        accelerators=counts,
        values={("a", "b"): draw(st.lists(st.integers(0, 1000), min_size=len(STEPS) ** 2, max_size=len(STEPS) ** 2))},
        batch_exponent=draw(st.sampled_from([0.5, 0.9])),
        batches=BATCHES,
        prices={"small": "1", "large": "3"} if priced else {},
        min_hosts=min_hosts,
        least={name: draw(st.integers(0, count)) for name, count in counts.items() if draw(st.booleans())},
        budgets=budgets if priced else {},
        overload=draw(st.sampled_from(["degrade", "strict"])),
        needs_mib={"a": 1, "b": 10},
        memory_mib=draw(st.sampled_from([{}, {"small": 9}, {"small": 10, "large": 40}])),
        weight=draw(st.sampled_from([50, 100, 200])),
        name=name,
    )


@st.composite
def running(draw: st.DrawFn) -> dict[PoolKey, int]:
    keys = st.tuples(st.sampled_from(VARIANTS), st.sampled_from(CLASSES))
    return draw(st.dictionaries(keys, st.integers(1, 2), max_size=2))


def cost_of(instance: Instance, pools: Mapping[PoolKey, PoolSize]) -> float:
    return sum(float(instance.prices.get(on, "0")) * pool.replicas for (_, on), pool in pools.items())


def of_class(pools: Mapping[PoolKey, PoolSize]) -> Counter[str]:
    count = Counter[str]()
    for (_, on), pool in pools.items():
        count[on] += pool.replicas
    return count


def of_variant(pools: Mapping[PoolKey, PoolSize]) -> Counter[str]:
    count = Counter[str]()
    for (variant, _), pool in pools.items():
        count[variant] += pool.replicas
    return count


def worth(problem: CascadeProblem, instance: Instance, pools: Mapping[PoolKey, PoolSize]) -> float:
    """Quality less what is shed and the prices of starts, batches, accelerators and missing replicas."""
    price = dict.fromkeys(pools, FIRST_START_PRICE) if not problem.running else problem.switch_prices
    dearest = max((float(p) for p in instance.prices.values()), default=0.0) or 1.0
    total = best_sharing(problem, pools).score - ACCELERATOR_PRICE * cost_of(instance, pools) / dearest
    for key, pool in pools.items():
        total -= price[key] * max(pool.replicas - problem.running.get(key, 0), 0)
        total -= BATCH_PRICE * math.log2(pool.batch)
    variants, classes = of_variant(pools), of_class(pools)
    short = sum(max(least - variants[name], 0) for name, least in problem.min_hosts.items())
    short += sum(max(bounds.min - classes[name], 0) for name, bounds in problem.workers.items())
    return total - SHORTAGE_PRICE * short


def everything(instance: Instance) -> Iterator[Pools]:
    """Every choice of replicas and batches of both variants on both classes, within every ceiling."""
    sizes = [PoolSize(0, 1), *(PoolSize(n, b) for n in range(1, 4) for b in BATCHES)]
    by_class = {
        name: [(a, b) for a, b in itertools.product(sizes, sizes) if a.replicas + b.replicas <= count]
        for name, count in instance.accelerators.items()
    }
    for small, large in itertools.product(by_class["small"], by_class["large"]):
        found = {("a", "small"): small[0], ("b", "small"): small[1], ("a", "large"): large[0], ("b", "large"): large[1]}
        pools = {key: pool for key, pool in found.items() if pool.replicas}
        if allowed(instance, pools):
            yield pools


def allowed(instance: Instance, pools: Mapping[PoolKey, PoolSize]) -> bool:
    count = of_class(pools)
    return all(count[name] <= most for name, most in instance.accelerators.items()) and all(
        not count[name] or count[name] * float(instance.prices.get(name, "inf")) <= float(budget) + 1e-9
        for name, budget in instance.budgets.items()
    )


@given(instance=instances(), demand=DEMANDS, runs=running())
@settings(max_examples=25)
def test_nothing_better_exists_on_several_classes(instance: Instance, demand: float, runs: dict[PoolKey, int]) -> None:
    problem = instance.cascade_problem(demand=demand, running=runs)
    answer = instance.allocate(demand=demand, running=runs)
    assert allowed(instance, answer.pools)
    best = max(worth(problem, instance, pools) for pools in everything(instance))
    assert worth(problem, instance, answer.pools) >= best - TOLERANCE


@st.composite
def chains(draw: st.DrawFn) -> Instance:
    """Three variants, any two of which may be the chain, on one class."""
    points = st.lists(st.integers(0, 1000), min_size=len(STEPS) ** 2, max_size=len(STEPS) ** 2)
    return Instance(
        seconds={"a": {"gpu": 0.1}, "b": {"gpu": draw(st.floats(0.2, 0.6))}, "c": {"gpu": draw(st.floats(0.6, 2.5))}},
        accelerators={"gpu": draw(st.integers(4, 5))},
        values={pair: draw(points) for pair in (("a", "b"), ("a", "c"), ("b", "c"))},
        batch_exponent=draw(st.sampled_from([0.5, 0.9])),
        batches=BATCHES,
        min_hosts={name: draw(st.sampled_from([0, 0, 0, 1])) for name in "abc"},
        least={"gpu": draw(st.sampled_from([0, 0, 2, 4]))},
        prices={"gpu": "1"} if draw(st.booleans()) else {},
        overload=draw(st.sampled_from(["degrade", "strict"])),
    )


@given(
    instance=chains(),
    demand=DEMANDS,
    runs=st.dictionaries(st.sampled_from([(name, "gpu") for name in "abc"]), st.integers(1, 3), max_size=2),
)
@settings(max_examples=25)
def test_no_other_chain_or_split_of_one_class_is_better(
    instance: Instance, demand: float, runs: dict[PoolKey, int]
) -> None:
    problem = instance.cascade_problem(demand=demand, running=runs)
    answer = instance.allocate(demand=demand, running=runs)
    sizes = [PoolSize(0, 1), *(PoolSize(n, b) for n in range(1, 5) for b in BATCHES)]
    every = (
        {(name, "gpu"): size for name, size in zip("abc", found, strict=True) if size.replicas}
        for found in itertools.product(sizes, repeat=3)
        if sum(size.replicas for size in found) <= instance.accelerators["gpu"]
    )
    best = max(worth(problem, instance, pools) for pools in every if allowed(instance, pools))
    assert allowed(instance, answer.pools)
    assert worth(problem, instance, answer.pools) >= best - TOLERANCE


@given(instance=instances(), demand=DEMANDS)
@settings(max_examples=25)
def test_models_serve_only_where_their_memory_fits(instance: Instance, demand: float) -> None:
    answer = instance.allocate(demand=demand)
    if not answer.mixture:
        return
    for (variant, on), pool in answer.pools.items():
        bound = instance.memory_mib.get(on, 0)
        kept_for_minimum = instance.min_hosts[variant] > 0 or instance.least.get(on, 0) > 0
        assert kept_for_minimum or not bound or instance.needs_mib[variant] * pool.batch <= bound


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Instance], list[float]]:
    """Two cascades on the accelerators of the first."""
    found = [draw(instances(name=name)) for name in ("one", "two")]
    return found, [draw(DEMANDS) for _ in found]


def allocated(
    cluster: tuple[list[Instance], list[float]], *, extra: int = 0
) -> tuple[list[CascadeProblem], list[Allocation]]:
    found, demands = cluster
    on = found[0]
    counts = {name: count + extra for name, count in on.accelerators.items()}
    problems = [i.cascade_problem(demand=demand) for i, demand in zip(found, demands, strict=True)]
    problem = shared(problems, Instance(**{**vars(on), "accelerators": counts}))
    answers = allocate(problem)
    return problems, [answers[p.ref] for p in problems]


@given(cluster=clusters())
@settings(max_examples=25)
def test_cascades_together_stay_within_the_cluster_and_each_within_its_own(
    cluster: tuple[list[Instance], list[float]],
) -> None:
    _, answers = allocated(cluster)
    used = Counter[str]()
    for instance, answer in zip(cluster[0], answers, strict=True):
        own = Counter[str]()
        for (_, on), pool in answer.pools.items():
            own[on] += pool.replicas
        assert all(own[name] <= count for name, count in instance.accelerators.items())
        assert allowed(Instance(**{**vars(instance), "prices": cluster[0][0].prices}), answer.pools)
        used += own
    assert all(used[name] <= count for name, count in cluster[0][0].accelerators.items())


@given(cluster=clusters())
@settings(max_examples=15)
def test_the_same_cluster_has_the_same_answer(cluster: tuple[list[Instance], list[float]]) -> None:
    first, again = allocated(cluster)[1], allocated(cluster)[1]
    assert first == again
    assert all(answer.gap <= SHARED_GAP for answer in first)


@given(cluster=clusters())
@settings(max_examples=15)
def test_a_larger_cluster_is_never_worse(cluster: tuple[list[Instance], list[float]]) -> None:
    def weighted(extra: int) -> float:
        problems, answers = allocated(cluster, extra=extra)
        scores = [best_sharing(p, a.pools).score * p.weight for p, a in zip(problems, answers, strict=True)]
        return sum(scores) / sum(p.weight for p in problems)

    fewer = weighted(0)
    assert weighted(1) >= fewer - 2 * SHARED_GAP * max(abs(fewer), 1.0)

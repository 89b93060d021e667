"""Small allocation problems, made through the same preparation as real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cascade_api.cascade import DiffusionCascade
from cascade_api.profile import CascadeProfile
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_operator.planning.allocation.problem import Allocation, AllocationProblem, CascadeProblem, PoolKey
from cascade_operator.planning.allocation.solver import allocate
from cascade_operator.planning.prepared import prepare

STEPS = (0, 50, 100)


@dataclass(frozen=True)
class Instance:
    """A cascade of some variants, each with seconds per image by class, on some accelerators."""

    seconds: Mapping[str, Mapping[str, float]]
    accelerators: Mapping[str, int]
    values: Mapping[tuple[str, ...], Sequence[int]]
    """Thousandths of quality for each chain at (r, d) = STEPS × STEPS, row by row; one of a variant alone."""
    batch_exponent: float = 0.8
    batches: tuple[int, ...] = (1, 4)
    objective: str = "6s"
    prices: Mapping[str, str] = field(default_factory=dict)
    min_hosts: Mapping[str, int] = field(default_factory=dict)
    """Workers that always host it, by variant."""
    least: Mapping[str, int] = field(default_factory=dict)
    """Fewest workers by class."""
    budgets: Mapping[str, str] = field(default_factory=dict)
    """Most money per hour by class."""
    overload: str = "degrade"
    source: str = "published"
    needs_mib: Mapping[str, int] = field(default_factory=dict)
    """Memory by variant, for a batch of one; more for more."""
    memory_mib: Mapping[str, int] = field(default_factory=dict)
    """Memory by class; 0 is no bound."""
    weight: int = 100
    floor: str = ""
    """`spec.objective.quality.noWorseThan`; empty: there is none."""
    name: str = "case"

    def cascade(self) -> DiffusionCascade:
        workers = [
            {
                "name": name,
                "class": name,
                "min": self.least.get(name, 0),
                "max": count,
                **({"budgetPerHour": self.budgets[name]} if name in self.budgets else {}),
            }
            for name, count in self.accelerators.items()
        ]
        return DiffusionCascade.model_validate(
            {
                "metadata": {"name": self.name},
                "spec": {
                    "objective": {
                        "latency": self.objective,
                        **({"quality": {"noWorseThan": self.floor}} if self.floor else {}),
                    },
                    "profileRef": {"name": "case"},
                    "sizes": ["32x32"],
                    "variants": [
                        {
                            "name": name,
                            "model": {"source": "builtin://shapes", "revision": "1"},
                            "settings": {"steps": 1},
                            "engine": "onnxruntime",
                            "pools": sorted(by_class.keys() & self.accelerators.keys()),
                            "minHosts": self.min_hosts.get(name, 0),
                        }
                        for name, by_class in self.seconds.items()
                    ],
                    "discriminator": {"source": "builtin://shapes"},
                    "workers": workers,
                    "policy": {"overload": self.overload, "weight": self.weight},
                },
            }
        )

    def profile(self) -> CascadeProfile:
        execution = [
            {
                "variant": name,
                "class": accelerator_class,
                "size": "32x32",
                "batch": batch,
                "p50Micros": int(1e6 * seconds * batch**self.batch_exponent),
                "p95Micros": int(1.05e6 * seconds * batch**self.batch_exponent),
                "memoryMiB": self.needs_mib.get(name, 0) * batch,
            }
            for name, by_class in self.seconds.items()
            for accelerator_class, seconds in by_class.items()
            for batch in self.batches
        ]
        points = [{"directPercent": r, "escalationPercent": d} for r in STEPS for d in STEPS]
        quality = [
            {"chain": chain, **point, "valuesMilli": {"q": value}}
            for chain, values in self.values.items()
            for point, value in zip(points if len(chain) == 2 else [{}], values, strict=True)
        ]
        return CascadeProfile.model_validate(
            {
                "metadata": {"name": "case"},
                "spec": {
                    "source": {"kind": self.source},
                    "metrics": [{"name": "q", "direction": "max"}],
                    "objectiveMetric": "q",
                    "execution": execution,
                    "quality": quality,
                },
            }
        )

    def problem(self, *, demand: float, running: Mapping[PoolKey, int] | None = None) -> AllocationProblem:
        return shared([self.cascade_problem(demand=demand, running=running)], self)

    def cascade_problem(self, *, demand: float, running: Mapping[PoolKey, int] | None = None) -> CascadeProblem:
        classes = [
            AcceleratorClass(
                name=name,
                resource=name,
                price_per_hour=self.prices.get(name, "0"),
                memory_mi_b=self.memory_mib.get(name, 0),
            )
            for name in self.accelerators
        ]
        prepared = prepare(self.cascade(), self.profile(), settings=PlannerSettings(), classes=classes)
        return prepared.at(demand, running=running)

    def allocate(self, *, demand: float, running: Mapping[PoolKey, int] | None = None) -> Allocation:
        problem = self.problem(demand=demand, running=running)
        return allocate(problem)[problem.cascades[0].ref]


def shared(cascades: Sequence[CascadeProblem], on: Instance) -> AllocationProblem:
    """Cascades on the accelerators, and at the prices, of an instance."""
    prices = {name: float(price) for name, price in on.prices.items()}
    return AllocationProblem(tuple(cascades), accelerators=dict(on.accelerators), prices_per_hour=prices)

"""Cascades, profiles and snapshots for tests: sensible defaults, any part overridden by a double-underscore path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Plan
from cascade_api.profile import CascadeProfile
from cascade_api.report import RouterReport
from cascade_models.shapes import assets
from cascade_operator.snapshot import CascadeView, Demand, Host, HostState, PoolRef, Worker, WorkerState

LIGHT_MS, DISCRIMINATOR_MS, HEAVY_MS = 2.5, 1.0, 40.0
"""Milliseconds per image of the built-in models on one thread; larger batches are not faster there."""
GRID = range(0, 101, 10)


def make_cascade(
    name: str = "shapes",
    *,
    workers: Mapping[str, int] | list[dict[str, Any]] | None = None,
    pool: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> DiffusionCascade:
    """A cascade of ``light`` and ``heavy`` on two cpu slots with an objective of 2 s.

    ``workers`` is how many there are of each class at most, or `spec.workers`; ``pool`` is what else each pool says.
    ``light__minHosts=2`` sets a field of a variant; any other path is below spec: ``objective__latency="6s"``,
    ``policy__mode="paused"``.
    """
    pools = workers or {"cpu": 2}
    if isinstance(pools, Mapping):
        pools = [{"name": on, "class": on, "max": most, **(pool or {})} for on, most in pools.items()]
    spec: dict[str, Any] = {
        "objective": {"latency": "2s"},
        "profileRef": {"name": name},
        "sizes": ["32x32"],
        "variants": [_variant("light", steps=1), _variant("heavy", steps=20)],
        "discriminator": {"source": "builtin://shapes"},
        "workers": pools,
        "policy": {},
    }
    by_name = {v["name"]: v for v in spec["variants"]}
    for path, value in overrides.items():
        head, *rest = path.split("__")
        if head in by_name:
            by_name[head][rest[0]] = value
            continue
        at = spec
        for part in [head, *rest][:-1]:
            at = at.setdefault(part, {})
        at[[head, *rest][-1]] = value
    return DiffusionCascade.model_validate({"metadata": {"name": name}, "spec": spec})


def _variant(name: str, *, steps: int) -> dict[str, Any]:
    return {
        "name": name,
        "model": {
            "source": "builtin://shapes",
            "revision": assets.revision(),
            "weights": name,
        },
        "settings": {"steps": steps},
        "engine": "onnxruntime",
    }


def quality(direct: float, escalation: float) -> float:
    """A plausible q2: .67 if all images are light, .98 if all are heavy. The first escalations gain most, and those
    above four fifths nothing.
    """
    heavy = direct + (1 - direct) * escalation
    judged: float = (1 - direct) * (1 - (1 - escalation) ** 2.4)
    ruled: float = 1 - (1 - direct) ** 1.7
    return 0.67 + 0.31 * min(1.0, max(judged * (1 - 0.4 * direct) + ruled, heavy))


def make_profile(
    name: str = "shapes",
    *,
    light_ms: float = LIGHT_MS,
    heavy_ms: float = HEAVY_MS,
    discriminator_ms: float = DISCRIMINATOR_MS,
    batches: Sequence[int] = (1, 2, 4, 8),
    accelerator_class: str = "cpu",
    chains: Sequence[tuple[str, str]] = (("light", "heavy"),),
    **spec: Any,
) -> CascadeProfile:
    """A measured profile with linear batches, an 11×11 quality grid and score quantiles."""
    execution_ms = {"light": light_ms, "heavy": heavy_ms}
    document = {
        "metadata": {"name": name},
        "spec": {
            "source": {"kind": "measured"},
            "metrics": [{"name": "q2", "direction": "max"}],
            "objectiveMetric": "q2",
            "execution": [
                {
                    "variant": variant,
                    "class": accelerator_class,
                    "size": "32x32",
                    "batch": batch,
                    "p50Micros": int(ms * batch * 1000),
                    "p95Micros": int(ms * batch * 1100),
                }
                for variant, ms in execution_ms.items()
                for batch in batches
            ],
            "discriminator": [
                {
                    "class": accelerator_class,
                    "batch": batch,
                    "p50Micros": int(discriminator_ms * batch * 1000),
                    "p95Micros": int(discriminator_ms * batch * 1100),
                }
                for batch in batches
            ],
            "startup": [
                {"variant": v, "class": accelerator_class, "coldSeconds": 2, "loadMillis": 350} for v in execution_ms
            ],
            "quality": [
                {
                    "chain": chain,
                    "directPercent": direct,
                    "escalationPercent": escalation,
                    "valuesMilli": {"q2": round(1000 * quality(direct / 100, escalation / 100))},
                }
                for chain in chains
                for direct in GRID
                for escalation in GRID
            ],
            "scores": {
                "hardnessMilli": [50 * i for i in range(21)],
                "confidenceMilli": {"light": [50 * i for i in range(21)]},
            },
            **spec,
        },
    }
    return CascadeProfile.model_validate(document)


def weights_of(*variants: str) -> tuple[str, ...]:
    """The digests of the weights of variants of `make_cascade`; those of other names are the names themselves."""
    known = {variant.name: variant.weights.digest for variant in make_cascade().spec.variants}
    return tuple(known.get(name, name) for name in variants)


_HOSTING = {"starting": HostState.LOADING, "failed": HostState.FAILED}


def make_worker(
    id: str = "cpu-0",
    *variants: str,
    state: str = "ready",
    cascade: str = "shapes",
    in_flight: int | None = 0,
    since_s: float = 0.0,
    hosting: Mapping[str, HostState] | None = None,
) -> Worker:
    """A worker on class cpu that hosts the weights of ``variants`` in the state that goes with its own.

    ``hosting`` says otherwise, by variant. ``in_flight`` are the requests in its hands for the first variant.
    """
    states = dict.fromkeys(variants, _HOSTING.get(state, HostState.READY)) if hosting is None else hosting
    first = next(iter(states), "light")
    return Worker(
        id=id,
        pool=PoolRef("default", "cpu", cascade),
        accelerator_class="cpu",
        endpoint=f"127.0.0.1:{9000 + int(id.rpartition('-')[2])}",
        state=WorkerState(state),
        since_s=since_s,
        hosts=tuple(Host(weights_of(name)[0], there, since_s) for name, there in states.items()),
        in_flight=None if in_flight is None else {(CascadeRef("default", cascade), first): in_flight},
    )


def make_demand(rate: float, *, now: float, seconds: int = 60) -> Demand:
    """Even arrivals at ``rate`` per second up to now."""
    counts, carried = [], 0.0
    for second in range(int(now) - seconds, int(now) + 1):
        carried += rate
        counts.append((second, int(carried)))
        carried -= int(carried)
    return Demand(tuple(counts))


def make_view(
    cascade: DiffusionCascade | None = None,
    *,
    profile: CascadeProfile | None = None,
    plan: Plan | None = None,
    demand: Demand | None = None,
    queue_depths: Mapping[str, int] | None = None,
    reports: Sequence[RouterReport] = (),
    **fields: Any,
) -> CascadeView:
    """One cascade as the planner sees it; queues are empty unless told."""
    if queue_depths is None:
        queue_depths = {pool_name(variant=v, accelerator_class="cpu"): 0 for v in ("light", "heavy")}
    return CascadeView(
        cascade=cascade or make_cascade(),
        profile=profile or make_profile(),
        plan=plan,
        demand=demand,
        queue_depths=queue_depths,
        reports=tuple(reports),
        **fields,
    )

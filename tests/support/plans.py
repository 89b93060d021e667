"""Plans for tests: two pools with any number of replicas."""

from __future__ import annotations

from typing import Any

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan

REF = CascadeRef("default", "shapes")
LIGHT, HEAVY = "light.cpu", "heavy.cpu"


def make_worker(
    name: str,
    variant: str,
    *,
    endpoint: str,
    credits: int,
    state: str = "ready",
    on: str = "cpu",
    weights: str | None = None,
) -> dict[str, Any]:
    """A worker as a plan's document has it; weights that are not given are called after the variant."""
    return {
        "id": name,
        "endpoint": endpoint,
        "class": on,
        "state": state,
        "hosts": [weights or variant],
        "credits": {variant: credits},
    }


def make_plan(
    *,
    generation: int = 1,
    replicas: int = 2,
    batch: int = 1,
    pools: tuple[str, ...] = (LIGHT, HEAVY),
    draining: tuple[str, ...] = (),
    execution_s: float = 0.01,
    dispatch: str = "least-wait",
) -> Plan:
    """A plan whose replicas are called after their pool: ``light-0``, ``heavy-1``."""

    def worker(variant: str, number: int) -> dict[str, Any]:
        name = f"{variant}-{number}"
        state = "draining" if name in draining else "ready"
        return make_worker(name, variant, endpoint=f"{name}:8001", state=state, credits=batch)

    return Plan.model_validate(
        {
            "generation": generation,
            "cascade": str(REF),
            "issuedAt": "2026-11-20T10:00:00Z",
            "reason": "Steady",
            "objectiveS": 5,
            "attainment": 0.99,
            "overload": "degrade",
            "dispatch": dispatch,
            "discriminator": "builtin://shapes",
            "sizes": ["32x32"],
            "variants": {
                name: {
                    "weights": name,
                    "settings": {"steps": steps},
                    "classes": {"cpu": {"batch": batch, "executionS": {"32x32": {str(batch): execution_s * batch}}}}
                    if f"{name}.cpu" in pools
                    else {},
                }
                for name, steps in (("light", 1), ("heavy", 20))
            },
            "rows": [{"share": 1, "chain": ["light", "heavy"], "direct": 0.2, "escalation": 0.2}],
            "workers": [worker(pool.partition(".")[0], number) for pool in pools for number in range(replicas)],
            "expected": {"demand": 1, "latencyP99": 1, "quality": 1},
        }
    )

"""Plans for tests: two pools, as many replicas as asked."""

from __future__ import annotations

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan

REF = CascadeRef("default", "shapes")
LIGHT, HEAVY = "light.cpu", "heavy.cpu"


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

    def replica(pool: str, number: int) -> dict[str, str]:
        name = f"{pool.partition('.')[0]}-{number}"
        return {"id": name, "endpoint": f"{name}:8001", "state": "draining" if name in draining else "ready"}

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
            "image": {"width": 32, "height": 32},
            "variants": {"light": {"steps": 1}, "heavy": {"steps": 20}},
            "rows": [{"share": 1, "chain": ["light", "heavy"], "direct": 0.2, "escalation": 0.2}],
            "pools": [
                {
                    "name": pool,
                    "variant": pool.partition(".")[0],
                    "class": "cpu",
                    "batch": batch,
                    "executionS": {str(batch): execution_s * batch},
                    "replicas": [replica(pool, number) for number in range(replicas)],
                }
                for pool in pools
            ],
            "expected": {"demand": 1, "latencyP99": 1, "quality": 1},
        }
    )

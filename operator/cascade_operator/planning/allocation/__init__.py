"""The allocation: which replicas to run at which batch size, and which mixture of rows they serve best. Pure.

Two functions answer the two questions of the planner. `allocate` decides the pools of cascades that share accelerators,
by a mixed-integer program. `best_sharing` finds the best mixture of rows on pools that exist, by a table lookup. The
rest of the planner uses only the names that this module exports.
"""

from .contention import groups
from .expectations import answers
from .fluid import on_hosts, served_by
from .frontier import (
    NO_TIERS,
    Chain,
    Frontier,
    Mixture,
    Portion,
    QualityGrid,
    Row,
    TierShares,
    gpu_seconds,
    measured,
    pruned,
    tier_rows,
)
from .hull import MUCH_SHORTER, HostSet, Hull, hull_of, upper_hull
from .pooling import allocate_on_pool
from .problem import Allocation, AllocationProblem, CascadeProblem, Placement, PoolKey, PoolSize, WorkerBounds
from .sets import User, Weighed, best_on_sets, maximal_sets, needed_mib, useful_rows
from .shares import Sharing, best_sharing, running_columns, shared_on
from .solver import allocate
from .stages import ProfileTimings, Role, ServiceLevel, Stages, priced, stages_of
from .verdicts import holds_floor, verdict_of

__all__ = [
    "MUCH_SHORTER",
    "NO_TIERS",
    "Allocation",
    "AllocationProblem",
    "CascadeProblem",
    "Chain",
    "Frontier",
    "HostSet",
    "Hull",
    "Mixture",
    "Placement",
    "PoolKey",
    "PoolSize",
    "Portion",
    "ProfileTimings",
    "QualityGrid",
    "Role",
    "Row",
    "ServiceLevel",
    "Sharing",
    "Stages",
    "TierShares",
    "User",
    "Weighed",
    "WorkerBounds",
    "allocate",
    "allocate_on_pool",
    "answers",
    "best_on_sets",
    "best_sharing",
    "gpu_seconds",
    "groups",
    "holds_floor",
    "hull_of",
    "maximal_sets",
    "measured",
    "needed_mib",
    "on_hosts",
    "priced",
    "pruned",
    "running_columns",
    "served_by",
    "shared_on",
    "stages_of",
    "tier_rows",
    "upper_hull",
    "useful_rows",
    "verdict_of",
]

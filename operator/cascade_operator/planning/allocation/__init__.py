"""The allocation: which replicas at which batch size, and which rows they serve best. Pure.

`allocate` decides pools for cascades that share accelerators; `best_sharing` the mixture of rows on pools that exist.
The rest of the planner uses what is named here, and nothing of the modules behind it.
"""

from .contention import groups
from .expectations import latency_p99_s
from .frontier import Chain, Frontier, Mixture, Portion, QualityGrid, Row, gpu_seconds, measured, pruned
from .hull import MUCH_SHORTER, Hull, hull_of, upper_hull
from .problem import Allocation, AllocationProblem, CascadeProblem, PoolKey, PoolSize, WorkerBounds
from .sets import Weighed, maximal_sets
from .shares import Sharing, best_sharing, running_columns
from .solver import allocate
from .stages import ProfileTimings, Role, ServiceLevel, Stages, priced, stages_of

__all__ = [
    "MUCH_SHORTER",
    "Allocation",
    "AllocationProblem",
    "CascadeProblem",
    "Chain",
    "Frontier",
    "Hull",
    "Mixture",
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
    "Weighed",
    "WorkerBounds",
    "allocate",
    "best_sharing",
    "gpu_seconds",
    "groups",
    "hull_of",
    "latency_p99_s",
    "maximal_sets",
    "measured",
    "priced",
    "pruned",
    "running_columns",
    "stages_of",
    "upper_hull",
]

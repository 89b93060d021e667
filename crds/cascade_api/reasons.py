"""Condition types and reasons, which are the same words in conditions, Events, metric labels, logs and docs."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """A string enum that prints as its value in every supported version of Python."""

    def __str__(self) -> str:
        return str(self.value)


class ConditionType(Word):
    """Condition types of a DiffusionCascade."""

    READY = "Ready"
    ACCEPTED = "Accepted"
    POOLS_AVAILABLE = "PoolsAvailable"
    ROUTER_AVAILABLE = "RouterAvailable"
    METRICS_AVAILABLE = "MetricsAvailable"
    ALLOCATION_OPTIMAL = "AllocationOptimal"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"


class Reason(Word):
    """Why a plan was made, or why a condition has its value."""

    # a plan
    INITIAL_PLAN = "InitialPlan"
    DEMAND_ROSE = "DemandRose"
    DEMAND_FELL = "DemandFell"
    BACKLOG_GREW = "BacklogGrew"
    SPEC_CHANGED = "SpecChanged"
    PROFILE_CHANGED = "ProfileChanged"
    PROFILE_CORRECTED = "ProfileCorrected"
    CAPACITY_CHANGED = "CapacityChanged"
    REPLICAS_CHANGED = "ReplicasChanged"
    SHARES_ADJUSTED = "SharesAdjusted"
    STEADY = "Steady"
    # conditions: all is well
    AS_PLANNED = "AsPlanned"
    OPTIMAL = "Optimal"
    VALID = "Valid"
    MOVING = "Moving"
    # conditions: something is missing or wrong
    QUALITY_SHED = "QualityShed"
    QUALITY_BELOW_FLOOR = "QualityBelowFloor"
    LOAD_SHED = "LoadShed"
    SOLVER_LIMIT = "SolverLimit"
    INVENTORY_UNKNOWN = "InventoryUnknown"
    METRICS_MISSING = "MetricsMissing"
    INVALID_SPEC = "InvalidSpec"
    POLICY_NEEDS_DEDICATED_WORKERS = "PolicyNeedsDedicatedWorkers"
    PROFILE_MISSING = "ProfileMissing"
    PROFILE_INVALID = "ProfileInvalid"
    NO_CAPACITY = "NoCapacity"
    REPLICAS_STARTING = "ReplicasStarting"
    REPLICAS_FAILING = "ReplicasFailing"
    ROUTER_AWAY = "RouterAway"
    STORE_AWAY = "StoreAway"
    ADVISORY = "Advisory"
    PAUSED_BY_USER = "PausedByUser"
    PARKED = "Parked"
    # events of the operator on a cluster
    EDIT_REVERTED = "EditReverted"


class Refusal(Word):
    """Why the router refused a request; the label ``reason`` of ``cascade_refusals_total``."""

    INVALID = "Invalid"
    UNAUTHENTICATED = "Unauthenticated"
    UNKNOWN_MODEL = "UnknownModel"
    RATE_LIMITED = "RateLimited"
    QUEUE_FULL = "QueueFull"
    DEADLINE_UNREACHABLE = "DeadlineUnreachable"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CANCELLED = "Cancelled"
    NO_PLAN = "NoPlan"
    NO_REPLICA = "NoReplica"
    MODEL_FAILED = "ModelFailed"
    DUPLICATE = "Duplicate"
    UNKNOWN_JOB = "UnknownJob"
    RESULT_REMOVED = "ResultRemoved"
    STORE_AWAY = "StoreAway"
    STORE_FULL = "StoreFull"
    SHUTTING_DOWN = "ShuttingDown"
    NOT_ALLOWED = "NotAllowed"
    MODERATION_AWAY = "ModerationAway"
    BUCKET_AWAY = "BucketAway"


class Route(Word):
    """How an image was made; the output ``route`` of the serving API."""

    LIGHT = "light"
    DIRECT = "direct"
    ESCALATED = "escalated"
    DEGRADED = "degraded"

"""The router's queue: bounded per-pool queues with one order over all routers, and credits per replica."""

from .redis_queue import RedisAway
from .work import BANDS, EntryExpired, Grant, NoReadyReplica, PoolLoad, QueueEntry, QueueFull, limit_of
from .work_queue import WorkQueue

__all__ = [
    "BANDS",
    "EntryExpired",
    "Grant",
    "NoReadyReplica",
    "PoolLoad",
    "QueueEntry",
    "QueueFull",
    "RedisAway",
    "WorkQueue",
    "limit_of",
]

"""The router's queue: bounded per-pool queues with one order over all routers, and credits per replica."""

from .redis_queue import RedisAway
from .work import BANDS, Entry, Expired, Grant, NoReplica, PoolLoad, QueueFull, limit_of
from .work_queue import WorkQueue

__all__ = [
    "BANDS",
    "Entry",
    "Expired",
    "Grant",
    "NoReplica",
    "PoolLoad",
    "QueueFull",
    "RedisAway",
    "WorkQueue",
    "limit_of",
]

"""The router's queue: one bounded queue per pool, in one order over all routers, and credits for each replica.

A request that needs an image enqueues in the pool of its variant, and waits until it is granted a credit of a replica.
`work_queue` is what the rest of the router uses. `dispatch` holds the rules by which credits are granted, and
`scripts/*.lua` holds the same rules for Redis.
"""

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

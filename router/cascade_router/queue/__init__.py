"""The router's queue: bounded per-pool queues with one order over all routers, and credits per replica."""

from .work import Entry, Expired, Grant, NoReplica, PoolLoad, QueueFull
from .work_queue import WorkQueue

__all__ = ["Entry", "Expired", "Grant", "NoReplica", "PoolLoad", "QueueFull", "WorkQueue"]

"""The router's queue: bounded per-pool queues with one order over all routers, and credits per replica."""

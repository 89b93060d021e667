"""Planning: pure functions that decide what to run, and how to get there, from what is known and the time.

A decision has five stages, and each has a module: `observed`, `forecast`, `targets`, `moves` and `publish`. `planner`
calls them in this order. `allocation` holds the mathematics, and `policies` holds what differs between policies.
"""

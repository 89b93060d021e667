"""The Lua scripts: one per operation, each prefixed with `clock.lua` and `pool.lua` when loaded."""

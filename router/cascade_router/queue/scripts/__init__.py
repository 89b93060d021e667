"""The Lua scripts of the queue: one for each operation, with `clock.lua`, the constants and `pool.lua` in front."""

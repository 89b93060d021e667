"""Local mode: everything that `cascade up` runs on one machine, and how it starts and stops."""

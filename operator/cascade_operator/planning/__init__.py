"""The policy as pure functions: what to run, and how to get there, from what is known and the time."""

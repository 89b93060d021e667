"""Fixtures for all tests live in tests/support, one module per thing that they start."""

pytest_plugins = ["support.redis", "support.triton", "support.router", "support.local_run"]

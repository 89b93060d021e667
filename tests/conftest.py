"""Fixtures for all tests live in tests/support, one module per thing that they start.

With CASCADE_NO_SKIPS set, as CI does where everything that tests need is at hand, a skipped test fails the run.

Property tests look at the same examples in every run, so that a change is judged by what it changes;
``--hypothesis-profile=explore`` looks for new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")

pytest_plugins = [
    "support.redis",
    "support.bucket",
    "support.triton",
    "support.agent",
    "support.tiny_model",
    "support.sleepers",
    "support.painters",
    "support.router",
    "support.browser",
    "support.local_run",
    "support.kube",
    "support.installation",
    "support.kube_node",
]


@pytest.fixture(autouse=True)
def logs_as_by_default() -> Iterator[None]:
    """A command that was called here may have set logs up for an output that is closed by now."""
    yield
    structlog.reset_defaults()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CASCADE_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("skipped tests count as failed here (CASCADE_NO_SKIPS)", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

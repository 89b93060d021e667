"""Fixtures: the headless browser of the set-up, and a page of its own for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .waiting import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).parents[2] / ".browser"
PATIENCE_MS = 1000 * PATIENCE_S


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for a module: while it is there its event loop is the thread's, and no other can run."""
    from playwright.sync_api import sync_playwright

    environment: dict[str, str | float | bool] = {
        **os.environ,
        "HOME": str(tmp_path_factory.mktemp("browser")),
        "LD_LIBRARY_PATH": str(FOLDER / "system" / "lib"),
        "FONTCONFIG_FILE": str(FOLDER / "fonts.conf"),
    }
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=FOLDER / "chromium",
            args=["--no-zygote"],
            env=environment,
            chromium_sandbox=False,
            timeout=PATIENCE_MS,
        ) as launched,
    ):
        yield launched


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of a browser that remembers nothing; what it waits for may take its time."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()

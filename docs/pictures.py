"""Take the pictures of the console in docs/pictures, of a cascade that runs here under load: `make pictures`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from cascade_api.local import read_addresses

ROOT = Path(__file__).resolve().parents[1]
PICTURES = Path(__file__).parent / "pictures"
BROWSER = ROOT / ".browser"
CASCADE = Path(sys.executable).parent / "cascade"
LOAD = ((4, 40), (25, 40), (10, 30))
"""Requests a second, and for how many seconds, one after the other."""
PATIENCE_MS = 120_000


def main() -> None:
    """Serve the example, put load on it, and take the pictures while it answers."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as state, serving(state) as url, chromium() as browser:
        for rate, duration in LOAD:
            load(state, rate, duration).wait()
        last = load(state, 12, 60)
        time.sleep(5)
        take(browser, f"{url}/", "console.png", width=1280, scheme="light")
        take(browser, f"{url}/", "deciding.png", width=1280, scheme="light", height=740)
        take(browser, f"{url}/", "console-phone.png", width=390, scheme="dark", height=1600)
        take(browser, f"{url}/#playground", "playground.png", width=1280, scheme="light", draw=True)
        last.terminate()
        last.wait()


@contextmanager
def serving(state: str) -> Iterator[str]:
    """`cascade up` while the block runs; its HTTP address."""
    where = ["--state-dir", state]
    subprocess.run([CASCADE, "up", "--detach", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *where], check=True)
    try:
        addresses = read_addresses(Path(state))
        if addresses is None:
            sys.exit("nothing runs")
        yield f"http://{addresses.http}"
    finally:
        subprocess.run([CASCADE, "down", *where], check=True)


def load(state: str, rate: float, duration_s: int) -> subprocess.Popen[bytes]:
    """`cascade load`, begun."""
    command = [CASCADE, "load", "--rate", str(rate), "--duration", str(duration_s), "--state-dir", state]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that the tests use."""
    libraries = {"LD_LIBRARY_PATH": str(BROWSER / "system" / "lib"), "FONTCONFIG_FILE": str(BROWSER / "fonts.conf")}
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=BROWSER / "chromium",
            args=["--no-zygote"],
            env={**os.environ, **libraries},
            chromium_sandbox=False,
        ) as browser,
    ):
        yield browser


def take(
    browser: Browser, url: str, name: str, *, width: int, scheme: str, height: int = 0, draw: bool = False
) -> None:
    """A picture of a page, whole unless it has a height; with ``draw`` after two images were asked for."""
    with browser.new_context(
        viewport={"width": width, "height": height or 800}, color_scheme="dark" if scheme == "dark" else "light"
    ) as context:
        context.set_default_timeout(PATIENCE_MS)
        page: Page = context.new_page()
        page.goto(url)
        page.locator("#workers tr").first.wait_for(state="attached")
        if draw:
            page.get_by_label("Images", exact=True).fill("3")
            page.get_by_role("button", name="Generate").click()
            page.locator("#results dl").nth(2).wait_for()
        page.screenshot(path=PICTURES / name, full_page=not height)
        print(f"wrote {PICTURES / name}")


if __name__ == "__main__":
    main()

"""The playground page of a real router, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from support.router import EASY, RouterProcess

pytestmark = [pytest.mark.browser, pytest.mark.contract]

MADE_BY = {"light": "shapes-light", "degraded": "shapes-light", "direct": "shapes-heavy", "escalated": "shapes-heavy"}
PIXELS = """async image => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, new Set(new Uint32Array(pixels.buffer)).size];
}"""
"""Width and height of an image, and how many colours it has."""


@pytest.fixture
def playground(page: Page, shared_router: RouterProcess) -> Page:
    page.goto(shared_router.http_url)
    return page


def test_a_prompt_becomes_an_image_that_says_how_it_was_made(playground: Page) -> None:
    _generate(playground, EASY)
    image = playground.get_by_role("img", name=EASY)
    expect(image).to_be_visible()
    width, height, colours = image.evaluate(PIXELS)
    assert (width, height) == (32, 32)
    assert colours > 20
    told = {each: playground.locator(f"#{each}").inner_text() for each in ("route", "variant", "confidence", "latency")}
    route = told["route"].partition(":")[0]
    assert told["variant"] == MADE_BY[route]
    assert re.fullmatch("–" if route == "direct" else r"[01]\.\d\d", told["confidence"])
    assert re.fullmatch(r"\d+ ms", told["latency"])


def test_what_is_wrong_with_a_prompt_is_said_and_the_next_one_is_drawn(playground: Page) -> None:
    sent: list[str] = []
    playground.on("request", lambda request: sent.append(request.method))
    _generate(playground, "")
    expect(playground.locator("#prompt:invalid")).to_be_visible()
    assert "POST" not in sent
    _generate(playground, "   ")
    expect(playground.get_by_role("alert")).to_contain_text("prompt: is empty")
    expect(playground.get_by_role("img")).to_be_hidden()
    _generate(playground, EASY)
    expect(playground.get_by_role("img", name=EASY)).to_be_visible()
    expect(playground.get_by_role("alert")).to_be_empty()


def _generate(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Generate").click()

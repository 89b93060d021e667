"""The console of a real router in a real browser: what it shows, for everybody, without making anything in vain."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import PATIENCE_MS
from support.plans import make_worker
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan, publish, weights_of
from support.triton import TritonServer

pytestmark = [pytest.mark.browser, pytest.mark.contract]
VARIANTS = ("shapes-light", "shapes-heavy")

CONTRAST = """() => {
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = element => {
        for (let each = element; each; each = each.parentElement) {
            const colour = parse(getComputedStyle(each).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.disabled) continue;
        const style = getComputedStyle(element);
        const colour = element instanceof SVGElement ? style.fill : style.color;
        const [a, b] = [light(parse(colour)), light(ground(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
    return poor;
}"""
"""The texts whose contrast to their ground is below 4.5, what WCAG's level AA asks for."""
NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button, [role=img], [role=region]")]
    .filter(each => !(each.labels?.length || each.textContent.trim() || each.getAttribute("aria-label")
                      || each.getAttribute("aria-labelledby")))
    .map(each => each.outerHTML.slice(0, 80))"""
"""The controls and pictures that a screen reader has no name for."""
CHANGES = """async looks => {
    const seen = [];
    const observer = new MutationObserver(records => seen.push(...records.filter(r => r.type === "childList"
        && [...r.addedNodes].some(node => node.nodeType === 1))));
    observer.observe(document.body, {childList: true, subtree: true});
    const before = performance.getEntriesByType("resource").filter(e => e.name.includes("/console/state")).length;
    const asked = () => performance.getEntriesByType("resource").filter(e => e.name.includes("/console/state")).length;
    while (asked() < before + looks) await new Promise(wake => setTimeout(wake, 50));
    return seen.length;
}"""
"""How many elements are made while the page looks that often."""


@pytest.fixture
def console(page: Page, shared_router: RouterProcess) -> Page:
    page.goto(shared_router.http_url)
    expect(page.locator("#why")).not_to_be_empty()
    return page


def test_the_plan_its_reason_and_every_part_are_shown(console: Page, shared_router: RouterProcess) -> None:
    shared_router.ask(EASY)
    expect(console.locator("#why")).to_contain_text("of the images")
    expect(console.locator("#workers tr")).to_have_count(2)
    expect(console.locator("#queues tr")).to_have_count(2)
    expect(console.locator("#shares tr")).to_have_count(3)
    expect(console.locator("#variants tr")).to_have_count(2)
    expect(console.locator("#decisions li").first).to_contain_text("No earlier plan was found")
    expect(console.get_by_role("img", name="Latency of 99 %")).to_be_visible()
    expect(console.locator("#tiles")).to_contain_text("if all images were heavy")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it_and_nothing_is_logged(browser: Browser, shared_router: RouterProcess, scheme) -> None:  # type: ignore[no-untyped-def]
    with browser.new_context(color_scheme=scheme, viewport={"width": 375, "height": 800}) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        logged: list[str] = []
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.goto(shared_router.http_url)
        expect(page.locator("#workers tr")).to_have_count(2)
        for view in ("Now", "Playground", "Gallery"):
            page.get_by_role("tab", name=view).click()
            expect(page.get_by_role("tabpanel", name=view)).to_be_visible()
            assert page.evaluate(CONTRAST) == []
            assert page.evaluate(NAMELESS) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, "nothing is wider than a phone"
        assert logged == []


def test_the_keyboard_is_enough(console: Page) -> None:
    def focused() -> str:
        return str(console.evaluate("document.activeElement.textContent"))

    console.keyboard.press("Tab")
    assert focused() == "Skip to the content"
    console.keyboard.press("Tab")
    assert focused() == "Now"
    console.keyboard.press("ArrowRight")
    assert focused() == "Playground"
    expect(console.get_by_role("textbox", name="Prompt")).to_be_visible()
    console.keyboard.press("End")
    expect(console.get_by_role("tabpanel", name="Gallery")).to_be_visible()


def test_nothing_is_asked_of_other_sites(page: Page, shared_router: RouterProcess) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(shared_router.http_url)
    expect(page.locator("#why")).not_to_be_empty()
    assert [url for url in asked if not url.startswith((shared_router.http_url, "data:"))] == []


def test_a_hundred_workers_at_a_hundred_looks_a_minute_make_no_element_anew(
    page: Page, redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    base = make_plan({variant: [shared_triton.endpoint] for variant in VARIANTS})
    workers = [
        make_worker(f"gpu-{n}", variant, endpoint=shared_triton.endpoint, credits=4, weights=weights_of(variant))
        for n in range(100)
        for variant in VARIANTS[n % 2 : n % 2 + 1]
    ]
    document = base.model_dump(by_alias=True, exclude_none=True)
    plan = type(base).model_validate(document | {"workers": workers})
    router = start_router(redis_server, plan)
    page.goto(f"{router.http_url}/?every=600")
    expect(page.locator("#workers tr")).to_have_count(100)
    assert page.evaluate(CHANGES, 10) == 0
    more = document | {"workers": workers[:99], "generation": plan.generation + 1, "reason": "ReplicasChanged"}
    publish(redis_server, type(base).model_validate(more))
    expect(page.locator("#why")).to_contain_text("there are 99 workers instead of 100")
    expect(page.locator("#workers tr")).to_have_count(99)


def test_a_router_that_is_away_is_said_and_missed_until_it_is_back(
    page: Page, redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan({variant: [shared_triton.endpoint] for variant in VARIANTS}))
    page.goto(router.http_url)
    expect(page.locator("#why")).not_to_be_empty()
    router.stop()
    expect(page.locator("#trouble")).not_to_be_empty()
    router.start()
    expect(page.locator("#trouble")).to_be_empty()

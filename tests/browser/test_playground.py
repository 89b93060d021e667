"""The playground and the gallery of a real router's console, in a real browser."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.triton import TritonServer

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
    page.goto(f"{shared_router.http_url}/#playground")
    return page


def test_a_prompt_becomes_an_image_that_says_how_it_was_made(playground: Page) -> None:
    _generate(playground, EASY)
    image = playground.locator("#results").get_by_role("img", name=EASY, exact=True)
    expect(image).to_be_visible()
    width, height, colours = image.evaluate(PIXELS)
    assert (width, height) == (32, 32)
    assert colours > 20
    told = {each: _told(playground, each).inner_text() for each in ("route", "variant", "confidence", "time", "seed")}
    route = told["route"].partition(":")[0]
    assert told["variant"] == MADE_BY[route]
    assert re.fullmatch("–" if route == "direct" else r"[01](\.\d+)?", told["confidence"])
    assert re.fullmatch(r"\d+ ms(, the light image after \d+ ms)?", told["time"])
    assert told["seed"].isdigit()


def test_a_number_of_images_have_seeds_one_after_the_other(playground: Page) -> None:
    playground.get_by_label("Images", exact=True).fill("3")
    playground.get_by_label("Seed").fill("41")
    _generate(playground, EASY)
    expect(_told(playground, "seed")).to_have_count(3)
    assert sorted(_told(playground, "seed").all_inner_texts()) == ["41", "42", "43"]


def test_the_light_image_stands_beside_the_heavy_one_that_replaced_it(
    page: Page, redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    thresholds = {"hardness": 100.0, "confidence": 1.0}
    plan = make_plan(
        {variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")},
        direct=0, escalation=1, overload="strict", seed_thresholds=thresholds,
    )  # fmt: skip
    router = start_router(redis_server, plan)
    page.goto(f"{router.http_url}/#playground")
    _generate(page, EASY)
    expect(_told(page, "route")).to_contain_text("escalated")
    names = page.locator("#results").get_by_role("img").evaluate_all("images => images.map(image => image.alt)")
    assert names == [f"{EASY}, the light image", EASY]
    expect(_told(page, "time")).to_contain_text("the light image after")


def test_the_gallery_keeps_images_in_this_browser_until_it_forgets_them(
    playground: Page, shared_router: RouterProcess
) -> None:
    _generate(playground, EASY)
    expect(playground.locator("#results dl")).to_have_count(1)
    playground.goto("about:blank")
    playground.goto(f"{shared_router.http_url}/#gallery")
    kept = playground.locator("#kept").get_by_role("img", name=EASY, exact=True)
    expect(kept).to_be_visible()
    playground.get_by_role("button", name="Forget them").click()
    expect(kept).to_have_count(0)


def test_what_is_wrong_with_a_prompt_is_said_and_the_next_one_is_drawn(playground: Page) -> None:
    sent: list[str] = []
    playground.on("request", lambda request: sent.append(request.method))
    _generate(playground, "")
    expect(playground.locator("#prompt:invalid")).to_be_visible()
    assert "POST" not in sent
    _generate(playground, "   ")
    expect(playground.locator("#error")).to_contain_text("prompt: is empty")
    expect(playground.locator("#results").get_by_role("img")).to_have_count(0)
    _generate(playground, EASY)
    expect(playground.locator("#results").get_by_role("img", name=EASY, exact=True)).to_be_visible()
    expect(playground.locator("#error")).to_be_empty()


def test_a_tenants_key_is_asked_for_once(
    page: Page, redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter, tmp_path: Path
) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text(f"tenants: [{{name: studio, keys: [{digest}]}}]")
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    router = start_router(redis_server, plan, tenants_file=tenants)
    page.goto(router.http_url)
    page.get_by_label("API key of a tenant").fill("secret")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#why")).to_contain_text("No earlier plan was found")
    expect(page.get_by_label("API key of a tenant")).to_be_hidden()
    expect(page.locator("#trouble")).to_be_empty()


SEND = """async ([url, kind]) => {
    const body = JSON.stringify({prompt: "a large red circle"});
    try {
        const reply = await fetch(url, {method: "POST", mode: kind ? "cors" : "no-cors", body,
                                        headers: kind ? {"content-type": kind} : {}});
        return kind ? reply.status : "sent";
    } catch (error) { return "kept from it"; }
}"""
"""What a page gets for a prompt that it sends; without a content type as any page may send it, unseen."""


@pytest.fixture
def other_site(tmp_path: Path) -> Iterator[str]:
    """The address of a page that is not the router's."""
    (tmp_path / "index.html").write_text("<title>another site</title>")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_a_page_of_another_site_makes_no_image(page: Page, other_site: str, shared_router: RouterProcess) -> None:
    url = f"{shared_router.http_url}/v1/images/generations"
    page.goto(other_site)
    before = _received(shared_router)
    assert page.evaluate(SEND, [url, "application/json"]) == "kept from it"
    assert page.evaluate(SEND, [url, ""]) == "sent"
    assert _received(shared_router) == before


def test_a_page_of_an_allowed_origin_does(
    page: Page, other_site: str, redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    router = start_router(redis_server, plan, allowed_origins=json.dumps([other_site]))
    page.goto(other_site)
    assert page.evaluate(SEND, [f"{router.http_url}/v1/images/generations", "application/json"]) == 200


def _received(router: RouterProcess) -> float:
    """Requests that the router has taken up."""
    lines = router.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("cascade_requests_total{"))


def _generate(page: Page, prompt: str) -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_role("button", name="Generate").click()


def _told(page: Page, what: str) -> Locator:
    """What the images of the last prompt say of themselves."""
    return page.locator(f'#results [data-of="{what}"]')

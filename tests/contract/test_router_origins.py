"""Pages of other sites cannot use a router through the browser of a user, unless they are allowed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cascade_api.settings import RouterSettings
from cascade_router.serving.http_origins import host_rule
from support.ports import free_port
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.triton import TritonServer
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract

STUDIO = "https://studio.example"
EVERY_PATH = ("/", "/healthz", "/readyz", "/metrics", "/v1/models", "/openapi.json", "/v1/jobs/x", "/nothing")


def ask(router: RouterProcess, method: str, path: str, headers: dict[str, str], **content: Any) -> httpx.Response:
    return httpx.request(method, router.http_url + path, headers=headers, timeout=PATIENCE_S, **content)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; b=x"])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/jobs"])
def test_a_body_that_is_not_said_to_be_json_is_not_read(
    shared_router: RouterProcess, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    reply = ask(shared_router, "POST", path, headers, content=b'{"prompt": "a red circle"}')
    assert reply.status_code == 415
    assert "send application/json" in reply.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_form_is_no_body_of_kserve(shared_router: RouterProcess, kind: str) -> None:
    reply = ask(shared_router, "POST", "/v2/models/shapes/infer", {"content-type": kind}, content=b"{}")
    assert reply.status_code == 415
    assert "send application/json" in reply.json()["error"]


def test_json_may_come_with_a_charset(shared_router: RouterProcess) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    body = b'{"prompt": "a large red circle"}'
    assert ask(shared_router, "POST", "/v1/images/generations", headers, content=body).status_code == 200


@pytest.mark.parametrize("path", EVERY_PATH)
@pytest.mark.parametrize("host", ["evil", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "10.1.2.3"])
def test_a_foreign_host_name_is_refused_everywhere(shared_router: RouterProcess, path: str, host: str) -> None:
    reply = ask(shared_router, "GET", path, {"host": host})
    assert reply.status_code == 403
    assert "CASCADE_ROUTER_ALLOWED_HOSTS" in reply.json()["error"]["message"]


@pytest.mark.parametrize("host", ["evil@localhost", "localhost/x", "a b", "[::1", "localhost:8000:1", ""])
def test_what_is_no_host_at_all_is_refused(shared_router: RouterProcess, host: str) -> None:
    assert ask(shared_router, "GET", "/metrics", {"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000", "[::1]", "localhost."])
def test_loopback_has_several_names(shared_router: RouterProcess, host: str) -> None:
    assert ask(shared_router, "GET", "/metrics", {"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz/", "/v1/models/", "/v1/images/generations/", "//evil.example/healthz/"])
def test_nothing_redirects(shared_router: RouterProcess, path: str) -> None:
    for host in ("evil.example", "localhost"):
        reply = ask(shared_router, "GET", path, {"host": host})
        assert reply.status_code in (403, 404)
        assert "location" not in reply.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://[", "http://localhost"]
)
def test_a_page_of_another_site_gets_nothing(shared_router: RouterProcess, origin: str) -> None:
    kserve = "/v2/models/shapes/infer"
    for method, path in (
        ("POST", "/v1/images/generations"),
        ("POST", kserve),
        ("GET", "/v1/models"),
        ("DELETE", "/v1/jobs/x"),
    ):
        reply = ask(shared_router, method, path, {"origin": origin}, json={"prompt": EASY})
        assert reply.status_code == 403
        error = reply.json()["error"]
        assert "CASCADE_ROUTER_ALLOWED_ORIGINS" in (error if path == kserve else error["message"])
    asked = {"origin": origin, "access-control-request-method": "POST"}
    reply = ask(shared_router, "OPTIONS", "/v1/images/generations", asked)
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_the_routers_own_page_is_served_by_whichever_of_its_names(shared_router: RouterProcess) -> None:
    port = shared_router.http_url.rpartition(":")[2]
    for name in ("localhost", "127.0.0.1"):
        headers = {"host": f"{name}:{port}", "origin": f"http://{name}:{port}"}
        assert ask(shared_router, "POST", "/v1/images/generations", headers, json={"prompt": EASY}).status_code == 200


def test_pages_of_allowed_origins_are_served_and_others_are_not(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    router = start_router(redis_server, plan, allowed_origins=f'["{STUDIO}"]')
    asked = {
        "origin": STUDIO,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    preflight = ask(router, "OPTIONS", "/v1/images/generations", asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == STUDIO
    assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"]
    reply = ask(router, "POST", "/v1/images/generations", {"origin": STUDIO}, json={"prompt": EASY})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == STUDIO
    assert "access-control-allow-credentials" not in reply.headers
    refused = ask(router, "POST", "/v1/images/generations", {"origin": STUDIO}, json={"prompt": ""})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, STUDIO)
    for origin in ("https://evil.example", f"{STUDIO}.evil.example", "http://studio.example"):
        assert ask(router, "OPTIONS", "/v1/images/generations", {**asked, "origin": origin}).status_code == 403


def test_names_of_the_settings_are_the_only_ones_but_for_probes(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    health = f"127.0.0.1:{free_port()}"
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    hosts = '["127.0.0.1", "images.example", "*.internal"]'
    router = start_router(redis_server, plan, health_address=health, allowed_hosts=hosts)
    for host, status in (("images.example:80", 200), ("a.b.internal", 200), ("internal", 403), ("localhost", 403)):
        assert ask(router, "GET", "/healthz", {"host": host}).status_code == status
    for path in ("/healthz", "/startedz", "/metrics"):
        url = f"http://{health}{path}"
        assert httpx.get(url, headers={"host": "10.1.2.3:8002"}, timeout=PATIENCE_S).status_code == 200


@pytest.mark.parametrize(
    ("settings", "served", "refused"),
    [
        ({}, "127.0.0.1 localhost ::1 127.0.0.2", "evil 10.1.2.3 ::2 0.0.0.0"),
        ({"http_address": "0.0.0.0:8000"}, "127.0.0.1 localhost 10.1.2.3 ::1", "evil studio.example"),
        ({"http_address": "[::]:8000"}, "10.1.2.3 fd00::1", "evil"),
        ({"http_address": "10.1.2.3:8000"}, "10.1.2.3 localhost", "10.1.2.4 evil"),
        ({"http_address": "studio:8000"}, "studio 127.0.0.1", "evil 10.1.2.3"),
        ({"allowed_hosts": ["*"]}, "evil 10.1.2.3", ""),
        ({"allowed_hosts": ["Images.example"]}, "images.example", "localhost a.images.example"),
        ({"allowed_hosts": ["*.example", "[fd00::1]"]}, "a.example a.b.example fd00::1", "example xexample fd00::2"),
    ],
)
def test_host_rule(settings: dict[str, Any], served: str, refused: str) -> None:
    rule = host_rule(RouterSettings(**settings))
    assert all(map(rule, served.split()))
    assert not any(map(rule, refused.split()))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("allowed_hosts", '["images.example:80"]'),
        ("allowed_hosts", '["http://images.example"]'),
        ("allowed_hosts", '["*example"]'),
        ("allowed_hosts", "images.example"),
        ("allowed_origins", '["studio.example"]'),
        ("allowed_origins", '["https://studio.example/"]'),
        ("allowed_origins", '["null"]'),
    ],
)
def test_a_wrong_setting_is_named(
    redis_server: RedisServer, start_router: StartRouter, setting: str, value: str
) -> None:
    with pytest.raises(AssertionError, match=f"cascade-router: setting.*{setting}|{setting.upper()}"):
        start_router(redis_server, **{setting: value})

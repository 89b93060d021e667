"""Operator and router reach Redis over TLS as the chart sets them up, and trust only the authority that is named."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from cascade_api.names import CascadeRef
from cascade_operator.store import Store
from support.redis import RedisServer, tls_before
from support.router import EASY, RouterProcess, make_plan, publish
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    return authority


@pytest.fixture
def url(authority: trustme.CA, redis_server: RedisServer) -> Iterator[str]:
    """Of a Redis that speaks TLS alone and whose default user has a password."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with redis_server.client() as client:
        client.acl_setuser("me", enabled=True, passwords=["+secret"], keys="*", channels="*", commands=["+@all"])
        with tls_before(redis_server, context) as port:
            yield f"rediss://me:secret@localhost:{port}/0"
        client.acl_deluser("me")


async def test_the_operator_trusts_the_authority_that_it_is_told(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan({"shapes-light": ["127.0.0.1:9"], "shapes-heavy": ["127.0.0.1:9"]})
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    async with Store(url, timeout_s=PATIENCE_S) as store:
        assert await store.publish(plan)
        assert await store.plan(CascadeRef("default", "shapes")) == plan
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.crt"))
    async with Store(url, timeout_s=PATIENCE_S) as store:
        assert not await store.ping()
    async with Store(url.replace("rediss", "redis"), timeout_s=1.0) as store:
        assert not await store.ping()


def test_a_router_serves_over_it(
    url: str, tmp_path: Path, redis_server: RedisServer, sleeper_triton: TritonServer
) -> None:
    publish(redis_server, make_plan({name: [sleeper_triton.endpoint] for name in SECONDS}, execution_s=SECONDS))
    router = RouterProcess(url, tmp_path)
    router.environment["SSL_CERT_FILE"] = str(tmp_path / "ca.crt")
    router.start().wait_ready()
    try:
        assert router.ask(EASY).route
        wait_for(lambda: "cascade_store_away 0.0" in router.get("/metrics").text, what="Redis to be there")
    finally:
        router.stop()
    assert "secret" not in router.log.read_text()

"""Proxies in the environment are only for downloads: the components connect to each other directly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import urllib3
from kubernetes.config import incluster_config

from cascade_operator.clusters.kubernetes.api import connect
from support.local_run import PROMPT, LocalRun
from support.redis import RedisServer
from support.router import StartRouter, make_plan
from support.triton import TritonServer

pytestmark = pytest.mark.contract

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names proxies which do not answer, and no host that needs none."""
    for scheme in ("http", "https", "grpc", "all"):
        monkeypatch.setenv(f"{scheme}_proxy", NOBODY)
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", NOBODY)
    for exception in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(exception, raising=False)


@pytest.mark.usefixtures("proxies")
def test_a_cascade_comes_up_and_serves(local_run: LocalRun, tmp_path: Path) -> None:
    done = local_run.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert local_run.generate(tmp_path / "out.png")["variant"]
    loaded = local_run.cascade("load", "--json", "--rate", "2", "--duration", "3s", "--deadline", "60s")
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)["answered"] > 0
    looked = local_run.cascade("doctor")
    assert "does not answer" not in looked.stdout


@pytest.mark.usefixtures("proxies")
def test_a_router_reaches_its_workers(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    router = start_router(
        redis_server, make_plan({v: [shared_triton.endpoint] for v in ("shapes-light", "shapes-heavy")})
    )
    reply = router.post({"prompt": PROMPT})
    assert reply.status_code == 200, reply.text


@pytest.mark.usefixtures("proxies")
def test_a_pod_asks_the_api_server_directly_and_a_kubeconfig_as_its_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    config = tmp_path / "config"
    config.write_text(KUBECONFIG)
    assert isinstance(manager(str(config)), urllib3.ProxyManager)
    monkeypatch.setenv("NO_PROXY", "api.example.com")
    monkeypatch.setenv("no_proxy", "api.example.com")
    assert not isinstance(manager(str(config)), urllib3.ProxyManager)
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    assert not isinstance(manager(None), urllib3.ProxyManager)


def manager(kubeconfig: str | None) -> object:
    """What the client of the API server connects with."""
    return connect(timeout_s=1, kubeconfig=kubeconfig).rest_client.pool_manager


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: there
contexts: [{name: there, context: {cluster: there, user: me}}]
clusters: [{name: there, cluster: {server: "https://api.example.com", insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: x}}]
"""

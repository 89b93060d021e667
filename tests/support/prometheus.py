"""Prometheus of Debian: scrapes what a ServiceMonitor of the chart selects, and evaluates the chart's rules."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import yaml

from .helm import ROOT, Object
from .ports import free_port
from .waiting import wait_for

PROGRAMS = ROOT / ".prometheus"
INTERVAL_S = 2
"""Seconds between two scrapes, and between two evaluations of the rules."""


class Prometheus:
    """A server with its data in ``directory``."""

    def __init__(self, directory: Path, *, scrape: Sequence[Object], groups: Sequence[Object]) -> None:
        """Args:
        scrape: sections of `scrape_configs`.
        groups: groups of rules, as in a PrometheusRule.
        """
        self._directory = directory
        self._url = f"http://127.0.0.1:{free_port()}"
        self._http = httpx.Client(base_url=self._url, timeout=60, trust_env=False)
        rules = directory / "rules.yaml"
        rules.write_text(yaml.safe_dump({"groups": list(groups)}))
        every = f"{INTERVAL_S}s"
        document = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(rules)],
            "scrape_configs": list(scrape),
        }
        self._config = directory / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump(document))

    @contextlib.contextmanager
    def running(self) -> Iterator[Prometheus]:
        """The server, ready, inside the block."""
        log = self._directory / "prometheus.log"
        options = [
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with log.open("ab") as output:
            process = subprocess.Popen([program("prometheus"), *options], stdout=output, stderr=output)
        try:
            wait_for(lambda: process.poll() is not None or self._ready(), what="Prometheus to be ready")
            assert process.poll() is None, log.read_text()[-3000:]
            yield self
        finally:
            process.kill()
            process.wait()
            self._http.close()

    def values(self, expression: str) -> list[float]:
        """The value of each series that an expression gives now, without those that are not a number."""
        answer = self._http.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        found = [float(series["value"][1]) for series in answer["data"]["result"]]
        return [value for value in found if not math.isnan(value)]

    def alerted(self) -> set[str]:
        """Names of the alerts that are pending or firing now."""
        answer = self._http.get("/api/v1/alerts").json()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"]}

    def has_alerted(self, name: str, *, since: float, of: str = "") -> bool:
        """Whether an alert was pending or firing since a Unix time, of the cascade ``of`` if one is named."""
        only = f', cascade="{of}"' if of else ""
        seconds = int(time.time() - since)
        return seconds > 0 and bool(self.values(f'max_over_time(ALERTS{{alertname="{name}"{only}}}[{seconds}s])'))

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/-/ready").is_success
        return False


def program(name: str) -> Path:
    """``prometheus`` or ``promtool``."""
    found = PROGRAMS / name
    assert found.exists(), f"no {found}: run `make .prometheus/.ready`"
    return found


def scrape_of(monitor: Object, services: Sequence[Object], pods: Callable[[Object], Sequence[Object]]) -> list[Object]:
    """Sections that scrape the pods which a ServiceMonitor selects, with the labels that the Prometheus Operator gives.

    Debian's Prometheus cannot ask Kubernetes, so the pods are those of now.

    Args:
        services: the Services of the monitor's namespace, of which it selects some.
        pods: the pods that have the labels of a Service's selector.
    """
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    sections = []
    for endpoint in monitor["spec"]["endpoints"]:
        for service in services:
            ports = {port.get("name"): port["targetPort"] for port in service["spec"]["ports"]}
            labels = service["metadata"]["labels"]
            if endpoint["port"] not in ports or not wanted <= labels.items():
                continue
            job = {
                "job_name": f"{service['metadata']['name']}/{endpoint['port']}",
                "metrics_path": endpoint["path"],
                "static_configs": [],
            }
            for pod in pods(service["spec"]["selector"]):
                container, port = next(
                    (container["name"], port["containerPort"])
                    for container in pod["spec"]["containers"]
                    for port in container.get("ports", [])
                    if port["name"] == ports[endpoint["port"]]
                )
                given = {
                    "namespace": pod["metadata"]["namespace"],
                    "pod": pod["metadata"]["name"],
                    "container": container,
                    "service": service["metadata"]["name"],
                    "endpoint": endpoint["port"],
                    "job": labels[monitor["spec"]["jobLabel"]],
                }
                job["static_configs"].append({"targets": [f"{pod['status']['podIP']}:{port}"], "labels": given})
            sections.append(job)
    return sections


def panel_queries(dashboard: Object) -> dict[str, list[str]]:
    """The expressions of each panel by its title, for all cascades and the shortest time that rates may be over."""
    variables = {"$cascade": ".+", "$__rate_interval": f"{4 * INTERVAL_S}s"}

    def filled(text: str) -> str:
        for name, value in variables.items():
            text = text.replace(name, value)
        assert "$" not in text, f"{text}: a variable is not known here"
        return text

    return {
        panel["title"]: [filled(target["expr"]) for target in panel["targets"]]
        for panel in dashboard["panels"]
        if "targets" in panel
    }


def compared(expression: str) -> str:
    """What an alert's expression compares with a limit: it has data while all is well, too."""
    tree = promql_parser.parse(expression)
    assert isinstance(tree, promql_parser.BinaryExpr), f"{expression} compares nothing"
    return str(tree.lhs.prettify())


def wrong_with_rules(directory: Path, groups: Sequence[Object], tests: Sequence[Object]) -> str:
    """What is wrong with rules by `promtool test rules`; empty if nothing is.

    Args:
        tests: entries of its section `tests`.
    """
    rules, file = directory / "rules.yaml", directory / "tests.yaml"
    rules.write_text(yaml.safe_dump({"groups": list(groups)}))
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "15s", "tests": list(tests)}))
    command: list[Any] = [program("promtool"), "test", "rules", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return "" if done.returncode == 0 else done.stdout + done.stderr

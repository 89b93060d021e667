"""Alerts and the dashboard ask for metrics that exist, and every alert has a runbook."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cascade_operator.metrics import REGISTRY as OPERATOR
from cascade_router.metrics import REGISTRY as ROUTER
from support.helm import MONITORING, ROOT, metric_names, of_kind, programs, render

pytestmark = pytest.mark.chart

HELM = next(iter(programs().values()))


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    values = {"metrics": {"prometheusRule": {"runbookUrl": "https://example.com/runbooks"}}}
    return render(HELM, *MONITORING, values=values)


@pytest.fixture(scope="module")
def alerts(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (group,) = of_kind(objects, "PrometheusRule")["dc-diffusion-cascade"]["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.fixture(scope="module")
def dashboard(objects: list[dict[str, Any]]) -> dict[str, Any]:
    config = of_kind(objects, "ConfigMap")["dc-diffusion-cascade-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    found: dict[str, Any] = json.loads(config["data"]["diffusion-cascade.json"])
    return found


def exported() -> set[str]:
    """Names of every series that the programs export."""
    names = set()
    for family in (*ROUTER.collect(), *OPERATOR.collect()):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_alerts_ask_for_metrics_that_exist(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        assert metric_names(alert["expr"]) <= exported(), alert["alert"]


def test_the_dashboard_asks_for_metrics_that_exist(dashboard: dict[str, Any]) -> None:
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        assert metric_names(expression) <= exported(), expression
        assert metric_names(expression), expression


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_alert_has_a_runbook_and_every_runbook_an_alert(alerts: list[dict[str, Any]]) -> None:
    sections = set(re.findall(r"^## (Cascade\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE))
    assert {alert["alert"] for alert in alerts} == sections
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"https://example.com/runbooks#{alert['alert'].lower()}"


def test_alerts_leave_templates_to_prometheus(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        assert "{{ $" in alert["annotations"]["summary"] or "{{" not in alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in ("warning", "critical")

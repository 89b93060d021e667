"""Alerts and the dashboard ask for metrics that exist, and every alert has a runbook."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest

from cascade_operator.metrics import REGISTRY as OPERATOR
from cascade_router.metrics import REGISTRY as ROUTER
from support.helm import MONITORING, ROOT, of_kind, programs, render

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


SERVICE_MONITOR_LABELS = {"namespace", "pod", "job", "instance", "container", "endpoint", "service", "le"}
"""What Prometheus adds to every series, and the bound of a histogram's bucket."""


def exported() -> dict[str, set[str]]:
    """Labels by name of every series that the programs export, and of the one that Prometheus adds."""
    series: dict[str, set[str]] = {"up": set()}
    for registry in (ROUTER, OPERATOR):
        for metric in {metric for metric in registry._names_to_collectors.values() if hasattr(metric, "_labelnames")}:
            for family in metric.describe():
                suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                series |= {family.name + suffix: set(metric._labelnames) for suffix in suffixes}
    return series


def unknown(expression: str) -> list[str]:
    """What an expression asks for that no program exports; ValueError where it is not PromQL."""
    series = exported()
    used: set[str] = set()
    found: list[str] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            labels = {matcher.name for matcher in node.matchers.matchers} - SERVICE_MONITOR_LABELS
            if node.name not in series:
                found.append(node.name)
            else:
                used.update(series[node.name])
                found.extend(f"{node.name}{{{label}}}" for label in labels - series[node.name])

    tree = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    promql_parser.walk(tree, visit)

    def grouped(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found.extend(f"by ({label})" for label in set(node.modifier.labels) - used - SERVICE_MONITOR_LABELS)

    promql_parser.walk(tree, grouped)
    return found


def test_alerts_ask_for_metrics_and_labels_that_exist(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        assert not unknown(alert["expr"]), alert["alert"]


def test_the_dashboard_asks_for_metrics_and_labels_that_exist(dashboard: dict[str, Any]) -> None:
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        assert "cascade_" in expression
        assert not unknown(expression), expression


def test_what_does_not_exist_is_noticed() -> None:
    assert unknown("sum by (reasn) (rate(cascade_refusals_total[5m]))") == ["by (reasn)"]
    assert unknown("rate(cascade_no_such_metric[5m])") == ["cascade_no_such_metric"]
    with pytest.raises(ValueError, match="parenthesis"):
        unknown("sum(rate(cascade_refusals_total[5m])")


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

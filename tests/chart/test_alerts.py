"""Each alert of the chart fires when what it is for has lasted long enough, not before, and says whom it concerns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cascade_router import metrics
from support.helm import MONITORING, of_kind, programs, render
from support.prometheus import wrong_with_rules

pytestmark = pytest.mark.chart

OPERATOR = 'up{namespace="media", service="dc-diffusion-cascade-operator", pod="operator-0"}'
ROUTER = 'up{namespace="media", service="dc-diffusion-cascade-router-metrics", pod="router-0"}'
OTHERS = 'up{namespace="other", service="dc-diffusion-cascade-operator", pod="operator-1"}'
CASCADE = {"cascade": "default/shapes"}

CASES: dict[str, tuple[dict[str, str], str, str, dict[str, str], str]] = {
    "CascadeObjectiveMissed": (
        {
            'cascade_violations_total{cascade="default/shapes"}': "0+6x30",
            'cascade_requests_total{cascade="default/shapes"}': "0+60x30",
        },
        "10m",
        "12m",
        CASCADE,
        "default/shapes misses its objective for 10% of its requests.",
    ),
    "CascadeRefusesWork": (
        {
            'cascade_refusals_total{cascade="default/shapes", reason="NoReplica"}': "0+3x30",
            'cascade_requests_total{cascade="default/shapes"}': "0+60x30",
        },
        "5m",
        "7m",
        CASCADE,
        "default/shapes refuses requests that it could serve with more accelerators or healthy replicas.",
    ),
    "CascadeReplicaEjected": (
        {
            'cascade_replica_healthy{cascade="default/shapes", replica="a", pod="router-0"}': "0x30",
            'cascade_replica_healthy{cascade="default/shapes", replica="b", pod="router-0"}': "0x30",
            'cascade_replica_healthy{cascade="default/shapes", replica="b", pod="router-1"}': "1x30",
        },
        "4m",
        "5m",
        {**CASCADE, "replica": "a"},
        "Replica a of default/shapes does not answer probes.",
    ),
    "CascadeStoreAway": (
        {
            'cascade_store_away{namespace="media", pod="router-0"}': "0 1x30",
            'cascade_store_away{namespace="media", pod="router-1"}': "0x30",
        },
        "1m",
        "2m",
        {"namespace": "media", "pod": "router-0"},
        "Router router-0 cannot reach Redis: it continues with the last plan, without a common order over all routers.",
    ),
    "CascadeRoutersDisagree": (
        {
            'cascade_plan_generation{cascade="default/shapes", pod="router-0"}': "1000000x30",
            'cascade_plan_generation{cascade="default/shapes", pod="router-1"}': "1000000 1130000x30",
        },
        "5m",
        "6m",
        CASCADE,
        "Routers follow plans of default/shapes that are more than two minutes apart.",
    ),
    "CascadeNotReady": (
        {
            'cascade_operator_condition{cascade="default/shapes", type="Ready", status="False", '
            'reason="ReplicasStarting"}': "1x30",
            'cascade_operator_condition{cascade="default/parked", type="Ready", status="False", '
            'reason="Parked"}': "1x30",
        },
        "9m",
        "10m",
        {**CASCADE, "reason": "ReplicasStarting"},
        "default/shapes is not ready: ReplicasStarting.",
    ),
    "CascadeNotAccepted": (
        {
            'cascade_operator_condition{cascade="default/shapes", type="Accepted", status="False", '
            'reason="ProfileMissing"}': "1x30",
        },
        "4m",
        "5m",
        {**CASCADE, "reason": "ProfileMissing"},
        "The spec or the profile of default/shapes cannot be used (ProfileMissing); the last valid one stays in force.",
    ),
    "CascadePlannerStalled": (
        {'cascade_operator_last_tick_timestamp_seconds{pod="operator-0"}': "0 60 60x30"},
        "2m",
        "4m",
        {"pod": "operator-0"},
        "The operator has made no decision for 3m 0s.",
    ),
    "CascadeApiServerAway": (
        {'cascade_operator_api_available{pod="operator-0"}': "1 0x30"},
        "5m",
        "6m",
        {"pod": "operator-0"},
        "The operator cannot reach the API server: plans still adapt to the load, pools do not.",
    ),
    "CascadeComponentDown": (
        {OPERATOR: "1 0x30", ROUTER: "1x30", OTHERS: "0x30"},
        "2m",
        "3m",
        {"namespace": "media", "service": "dc-diffusion-cascade-operator", "pod": "operator-0"},
        "operator-0 of dc-diffusion-cascade-operator cannot be scraped.",
    ),
    "CascadeComponentAbsent": (
        {OPERATOR: "1x30", ROUTER: "1 _x30"},
        "5m",
        "12m",
        {"namespace": "media", "component": "router"},
        "Release dc in media has no running router.",
    ),
}
"""By name: series with a value a minute, when the alert may not fire yet, when it must, its labels, its summary."""


@pytest.fixture(scope="module")
def groups() -> list[dict[str, Any]]:
    objects = render(next(iter(programs().values())), *MONITORING)
    found: list[dict[str, Any]] = of_kind(objects, "PrometheusRule")["dc-diffusion-cascade"]["spec"]["groups"]
    return found


def test_every_alert_has_a_case(groups: list[dict[str, Any]]) -> None:
    assert {rule["alert"] for group in groups for rule in group["rules"]} == set(CASES)


def test_refusals_that_raise_an_alert_are_counted_from_zero_on(groups: list[dict[str, Any]]) -> None:
    """A counter that begins with its first refusals has no rate."""
    (rule,) = [rule for group in groups for rule in group["rules"] if rule["alert"] == "CascadeRefusesWork"]
    (reasons,) = re.findall(r'reason=~"([^"]+)"', rule["expr"])
    assert set(reasons.split("|")) <= {str(reason) for reason in metrics.TROUBLES}
    metrics.begin("tests/new")
    for reason in reasons.split("|"):
        labels = {"cascade": "tests/new", "reason": reason}
        assert metrics.REGISTRY.get_sample_value("cascade_refusals_total", labels) == 0
    assert metrics.REGISTRY.get_sample_value("cascade_violations_total", {"cascade": "tests/new"}) == 0


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_in_time(name: str, groups: list[dict[str, Any]], tmp_path: Path) -> None:
    series, quiet, fired, labels, summary = CASES[name]
    severity = next(rule["labels"]["severity"] for group in groups for rule in group["rules"] if rule["alert"] == name)
    expected = {"exp_labels": {**labels, "severity": severity}, "exp_annotations": {"summary": summary}}
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": quiet, "alertname": name, "exp_alerts": []},
            {"eval_time": fired, "alertname": name, "exp_alerts": [expected]},
        ],
    }
    assert not wrong_with_rules(tmp_path, groups, [case])

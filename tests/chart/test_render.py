"""What the chart renders: as reviewed, valid for every supported Kubernetes, restricted, and the same in Helm 3 and 4.

After a wanted change run with UPDATE_GOLDEN=1 and review the difference.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cascade_api.names import CascadeRef
from cascade_api.settings import OperatorSettings, PlannerSettings, RouterSettings
from cascade_operator.manifests.naming import Owner
from cascade_operator.manifests.policies import worker_policy
from support.crd import PLURALS
from support.helm import (
    CHART,
    MONITORING,
    OLD_PLANE,
    environment,
    of_kind,
    pod_specs,
    programs,
    render,
    restricted_violations,
    run,
    without_secrets,
)

pytestmark = pytest.mark.chart

HERE = Path(__file__).parent
CASES = ("default", "external-redis-tls", "namespaced", "everything")
PROGRAMS = programs()
HELM = next(iter(PROGRAMS.values()), Path("helm"))
SUPPORTED = [f"1.{minor}" for minor in range(30, 38)]
MONITORING_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, whose schemas Kubernetes does not have."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def rendered(case: str, *arguments: str, program: Path = HELM, **options: Any) -> list[dict[str, Any]]:
    """The objects of a case; tests only look at them."""
    return render(program, "--values", HERE / "values" / f"{case}.yaml", *MONITORING, *arguments, **options)


def test_both_helms_are_there() -> None:
    assert {"helm3", "helm4"} <= PROGRAMS.keys(), "run `make setup`"


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_lint(case: str, program: Path) -> None:
    done = run(program, "lint", "--strict", CHART, "--values", HERE / "values" / f"{case}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_golden(case: str, program: Path) -> None:
    objects = [o for o in rendered(case, program=program) if o["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(without_secrets(objects), sort_keys=False, width=120)
    golden = HERE / "golden" / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), f"{case} renders otherwise than reviewed; see the docstring of {__name__}"


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_kubernetes_takes_it(case: str, version: str) -> None:
    for o in rendered(case):
        if o["kind"] not in MONITORING_KINDS:
            kubernetes_validate.validate(o, version, strict=True)  # raises also where the kind is unknown


def test_an_unknown_kind_would_be_noticed() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget"}, "1.31")


def test_every_pod_is_restricted_and_cannot_write_its_root(case: str) -> None:
    specs = pod_specs(rendered(case))
    assert {"Deployment/dc-diffusion-cascade-operator", "Pod/dc-diffusion-cascade-test"} <= specs.keys()
    assert {where: restricted_violations(spec) for where, spec in specs.items()} == {where: [] for where in specs}


def test_a_pod_that_is_not_restricted_would_be_noticed() -> None:
    spec = {"hostNetwork": True, "volumes": [{"name": "v", "hostPath": {"path": "/"}}], "containers": [{"name": "c"}]}
    assert len(restricted_violations(spec)) >= 7


def test_only_the_operator_talks_to_the_api_server(case: str) -> None:
    holders = [where for where, spec in pod_specs(rendered(case)).items() if spec["automountServiceAccountToken"]]
    assert holders == ["Deployment/dc-diffusion-cascade-operator"]


def test_the_programs_take_the_settings_that_the_chart_passes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = pod_specs(rendered(case))
    for component, settings in (("operator", OperatorSettings), ("router", RouterSettings)):
        passed = environment(specs[f"Deployment/dc-diffusion-cascade-{component}"])
        known = {str(f.validation_alias or f"CASCADE_{component}_{n}") for n, f in settings.model_fields.items()}
        known |= {f"CASCADE_OPERATOR_{name}" for name in PlannerSettings.model_fields}
        assert {name for name in passed if name.startswith("CASCADE_")} <= {name.upper() for name in known}
        with monkeypatch.context() as patch:
            for name, entry in passed.items():
                if "value" in entry:
                    patch.setenv(name, entry["value"])
            settings()


def test_values_reach_the_operator() -> None:
    spec = pod_specs(rendered("everything"))["Deployment/dc-diffusion-cascade-operator"]
    passed = environment(spec)
    classes = json.loads(passed["CASCADE_OPERATOR_ACCELERATOR_CLASSES"]["value"])
    assert [(c["name"], c.get("memoryMiB"), c["pricePerHour"]) for c in classes] == [
        ("nvidia-l40s", 46068, "1.20"),
        ("nvidia-h100", None, "4.00"),
    ]
    assert json.loads(passed["CASCADE_OPERATOR_NAMESPACES"]["value"]) == ["media"]
    assert spec["containers"][0]["image"].startswith("registry.example.com/cascade/operator:0.1.0@sha256:1111")


def test_a_registry_goes_before_our_images_and_not_before_complete_ones() -> None:
    images = {
        where: spec["containers"][0]["image"]
        for where, spec in pod_specs(render(HELM, values={"image": {"registry": "registry.example.com/a/"}})).items()
    }
    assert images["Deployment/dc-diffusion-cascade-router"] == "registry.example.com/a/diffusion-cascade-router:0.1.0"
    assert images["StatefulSet/dc-diffusion-cascade-redis"].startswith("docker.io/valkey/valkey:")


def test_a_router_is_not_killed_while_it_finishes_the_longest_generation() -> None:
    """Its address is forgotten first, in seconds: an idle one stays no longer than that."""
    spec = pod_specs(rendered("everything"))["Deployment/dc-diffusion-cascade-router"]
    _, pause = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    passed = environment(spec)
    longest = float(passed["CASCADE_ROUTER_DEADLINE_LIMIT_S"]["value"])
    drain = float(passed["CASCADE_ROUTER_DRAIN_S"]["value"])
    assert longest == 300
    assert 3 <= float(pause) <= 10
    assert drain >= longest
    assert spec["terminationGracePeriodSeconds"] > float(pause) + drain


def test_routers_are_never_all_gone() -> None:
    objects = rendered("default")
    router = of_kind(objects, "Deployment")["dc-diffusion-cascade-router"]["spec"]
    assert router["replicas"] >= 2
    assert router["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budget = of_kind(objects, "PodDisruptionBudget")["dc-diffusion-cascade-router"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= router["template"]["metadata"]["labels"].items()
    spread = {c["topologyKey"] for c in router["template"]["spec"]["topologySpreadConstraints"]}
    assert spread == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


def test_there_is_one_operator_at_a_time() -> None:
    operator = of_kind(rendered("default"), "Deployment")["dc-diffusion-cascade-operator"]["spec"]
    assert (operator["replicas"], operator["strategy"]) == (1, {"type": "Recreate"})


def test_the_bundled_redis_keeps_what_it_is_told() -> None:
    objects = rendered("default")
    redis = of_kind(objects, "StatefulSet")["dc-diffusion-cascade-redis"]["spec"]
    words = " ".join(redis["template"]["spec"]["containers"][0]["args"])
    assert "--appendonly yes" in words
    assert "--maxmemory-policy noeviction" in words
    assert redis["volumeClaimTemplates"]
    assert "dc-diffusion-cascade-redis" in of_kind(objects, "Secret")


def test_an_external_redis_replaces_the_bundled_one() -> None:
    objects = rendered("external-redis-tls")
    assert not of_kind(objects, "StatefulSet")
    assert of_kind(objects, "Secret").keys() == {"dc-diffusion-cascade-agents"}, "no password"
    for component in ("operator", "router"):
        spec = pod_specs(objects)[f"Deployment/dc-diffusion-cascade-{component}"]
        passed = environment(spec)
        assert passed["REDIS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "redis-url", "key": "url"}
        mount = next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "redis-ca")
        assert passed["SSL_CERT_FILE"]["value"] == f"{mount['mountPath']}/ca.crt"


def test_the_test_pod_trusts_the_router() -> None:
    spec = pod_specs(rendered("external-redis-tls"))["Pod/dc-diffusion-cascade-test"]
    command = spec["containers"][0]["command"]
    (mount,) = (m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "tls")
    assert {"--ca", "--certificate", "--key"} == {
        word.partition("=")[0] for word in command if mount["mountPath"] in word
    }
    plain = pod_specs(rendered("default"))["Pod/dc-diffusion-cascade-test"]
    assert not [word for word in plain["containers"][0]["command"] if word.startswith("--ca")]


def test_the_operator_of_named_namespaces_has_no_right_elsewhere() -> None:
    objects = rendered("namespaced")
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    roles = [o for o in objects if o["kind"] == "Role"]
    assert {o["metadata"]["namespace"] for o in roles} == {"team-a", "team-b", "media"}
    (own,) = (o for o in roles if o["metadata"]["namespace"] == "media")
    assert [(rule["resources"], rule["verbs"]) for rule in own["rules"]] == [(["secrets"], ["get", "patch"])]


@pytest.mark.parametrize("name", ["default", "namespaced"])
def test_no_role_has_wildcards_secrets_or_more_rights_than_documented(name: str) -> None:
    roles = [o for o in rendered(name) if o["kind"] in ("Role", "ClusterRole")]
    granted = {
        (resource, verb) for role in roles for rule in role["rules"] for resource in rule["resources"]
        for verb in rule["verbs"]
    }  # fmt: skip
    assert not {r for r, _ in granted if r in ("*", "roles", "serviceaccounts")}
    assert not {v for _, v in granted if v in ("*", "escalate", "bind", "impersonate", "deletecollection")}
    assert {v for r, v in granted if r == "workerpools"} == {"get", "list", "watch"}, "it writes their status alone"
    assert {r for r, v in granted if v in ("create", "delete")} == {
        "deployments", "configmaps", "networkpolicies", "pods", "events", "secrets"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["default", "namespaced"])
def test_the_operator_reads_no_secret_but_its_own_which_the_chart_makes_empty(name: str) -> None:
    objects = rendered(name)
    own = "dc-diffusion-cascade-agents"
    assert not of_kind(objects, "Secret")[own].keys() & {"data", "stringData"}
    rights = [
        (rule.get("resourceNames"), rule["verbs"])
        for role in objects if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"] if "secrets" in rule["resources"]
    ]  # fmt: skip
    assert all(right in ([None, ["create"]], [[own], ["get", "patch"]]) for right in map(list, rights))
    (deployment,) = (o for n, o in of_kind(objects, "Deployment").items() if n.endswith("-operator"))
    told = environment(deployment["spec"]["template"]["spec"])["CASCADE_OPERATOR_AGENT_SECRET"]["value"]
    assert told == f"{deployment['metadata']['namespace']}/{own}"


def test_definitions_come_with_the_chart_and_outlive_it() -> None:
    definitions = of_kind(rendered("default"), "CustomResourceDefinition")
    assert definitions.keys() == {f"{plural}.diffusioncascade.io" for plural in PLURALS}
    for name, definition in definitions.items():
        committed = yaml.safe_load((CHART.parents[1] / "crds" / f"{name.partition('.')[0]}.yaml").read_text())
        assert definition["spec"] == committed["spec"]
        assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    loose = of_kind(rendered("default", "--set", "crds.keep=false"), "CustomResourceDefinition")
    assert all("annotations" not in definition["metadata"] for definition in loose.values())
    assert not of_kind(rendered("default", "--set", "crds.enabled=false"), "CustomResourceDefinition")


def test_what_an_old_cluster_does_not_know_is_left_out() -> None:
    objects = render(HELM, kube=OLD_PLANE)
    assert "x-kubernetes-validations" not in yaml.safe_dump_all(objects)
    told = render(HELM, "--set", "crds.rules=always", kube=OLD_PLANE)
    assert "x-kubernetes-validations" in yaml.safe_dump_all(told)
    assert not {o["kind"] for o in objects} & MONITORING_KINDS
    old = of_kind(render(HELM, "--api-versions", "policy/v1beta1", kube=OLD_PLANE), "PodDisruptionBudget")
    assert {o["apiVersion"] for o in old.values()} <= {"policy/v1", "policy/v1beta1"}


def test_without_the_prometheus_operator_there_is_no_monitoring() -> None:
    objects = render(HELM)
    assert not {o["kind"] for o in objects} & {*MONITORING_KINDS, "ConfigMap"}


@pytest.mark.parametrize("name", CASES)
def test_network_policies_cover_every_pod(name: str) -> None:
    objects = rendered(name)
    selectors = [
        (o["metadata"]["namespace"], o["spec"]["podSelector"]["matchLabels"])
        for o in of_kind(objects, "NetworkPolicy").values()
    ]
    for o in objects:
        labels = o["metadata"]["labels"] if o["kind"] == "Pod" else None
        if "template" in o.get("spec", {}):
            labels = o["spec"]["template"]["metadata"]["labels"]
        if labels is not None:
            assert any(s.items() <= labels.items() for n, s in selectors if n == o["metadata"]["namespace"]), o


def test_network_policies_can_be_left_to_others() -> None:
    objects = rendered("default", "--set", "networkPolicy.enabled=false")
    assert not of_kind(objects, "NetworkPolicy")
    assert worker_policy_setting(objects) is None


def worker_policy_setting(objects: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the operator of a chart is told of its workers' policy."""
    (deployment,) = (o for n, o in of_kind(objects, "Deployment").items() if n.endswith("-operator"))
    name = "CASCADE_OPERATOR_WORKER_NETWORK_POLICY"
    entry = environment(deployment["spec"]["template"]["spec"]).get(name)
    with pytest.MonkeyPatch.context() as patch:
        if entry is not None:
            patch.setenv(name, entry["value"])
        return OperatorSettings().worker_network_policy


def worker_policy_of(name: str) -> dict[str, Any]:
    """The NetworkPolicy that the operator of a case makes for a cascade in the namespace ``team``."""
    spec = worker_policy_setting(rendered(name))
    assert spec is not None
    return worker_policy(Owner.cascade(CascadeRef("team", "shapes"), "u"), spec=spec)


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_policy_of_the_workers_is_valid(case: str, version: str) -> None:
    kubernetes_validate.validate(worker_policy_of(case), version, strict=True)


def admitted(policy: dict[str, Any], port: int, *, namespace: str, labels: dict[str, str]) -> bool:
    """Whether a NetworkPolicy lets a pod of a namespace connect to a port of the pods that it is about."""
    for rule in policy["spec"]["ingress"]:
        if port not in [p["port"] for p in rule["ports"]]:
            continue
        if not rule.get("from"):
            return True
        for peer in rule["from"]:
            names = peer.get("namespaceSelector", {}).get("matchLabels", {})
            there = {"kubernetes.io/metadata.name": namespace}
            of_pods = peer.get("podSelector", {}).get("matchLabels", {})
            if names.items() <= there.items() and of_pods.items() <= labels.items():
                return True
    return False


def test_of_all_pods_only_routers_reach_a_worker() -> None:
    """Read from the rules: no cluster of these tests enforces them."""
    policy = worker_policy_of("everything")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["podSelector"] == {"matchLabels": {"diffusioncascade.io/cascade": "shapes"}}
    objects = rendered("everything")
    pods = {
        name: deployment["spec"]["template"]["metadata"]["labels"]
        for name, deployment in of_kind(objects, "Deployment").items()
    }
    (router,) = (labels for name, labels in pods.items() if name.endswith("-router"))
    home = next(o["metadata"]["namespace"] for o in objects if o["kind"] == "Deployment")
    assert admitted(policy, 8001, namespace=home, labels=router)
    assert not admitted(policy, 8001, namespace="team", labels=router), "a pod elsewhere can have any labels"
    assert not admitted(policy, 8000, namespace=home, labels=router)
    for name, labels in pods.items():
        assert name.endswith("-router") or not admitted(policy, 8001, namespace=home, labels=labels), name
        assert name.endswith("-operator") == admitted(policy, 8003, namespace=home, labels=labels), name
        assert not admitted(policy, 8003, namespace="team", labels=labels)
    for stranger in ({}, {"app": "notebook"}, policy["metadata"]["labels"]):
        for port in (8000, 8001, 8002, 8003):
            assert not admitted(policy, port, namespace="team", labels=stranger)
    assert admitted(policy, 8002, namespace="monitoring", labels={})


@pytest.mark.parametrize(
    ("endpoint", "port"), [("https://s3.example:9000", 9000), ("http://minio.storage.svc/", 80), ("", 443)]
)
def test_routers_alone_may_reach_the_bucket(endpoint: str, port: int) -> None:
    objects = rendered("default", "--set", f"router.bucket.name=images,router.bucket.endpoint={endpoint}")
    policies = of_kind(objects, "NetworkPolicy")
    open_to = {
        name: {rule["ports"][0]["port"] for rule in policy["spec"]["egress"] if "to" not in rule}
        for name, policy in policies.items()
        if "Egress" in policy["spec"]["policyTypes"] and "egress" in policy["spec"]
    }
    assert [name.rpartition("-")[2] for name, ports in open_to.items() if port in ports and "operator" not in name] == [
        "router"
    ]


@pytest.mark.parametrize(
    ("url", "port"), [("redis://redis.infra.svc:6380/0", 6380), ("rediss://redis.infra.svc/0", 6379)]
)
def test_the_port_of_an_external_redis_is_open(url: str, port: int) -> None:
    policies = of_kind(rendered("default", "--set", f"redis.url={url}"), "NetworkPolicy")
    for name in ("operator", "router"):
        (policy,) = (p for n, p in policies.items() if n.endswith(f"-{name}"))
        assert port in [p["port"] for rule in policy["spec"]["egress"] for p in rule["ports"]]

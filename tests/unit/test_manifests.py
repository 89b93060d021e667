"""The objects that are applied to a cluster: valid and different names, one accelerator per replica, real probes."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate  # type: ignore[import-untyped]
from pydantic import ValidationError

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef
from cascade_api.pod_volumes import OWN_VOLUMES, VolumeMount
from cascade_api.pods import PodTemplate
from cascade_api.profile import ProfileSpec
from cascade_api.settings import CPU, AcceleratorClass, PodUser
from cascade_models.agent.serving import SHORTEST_KEY
from cascade_operator.clusters.kubernetes.objects import read_deployment
from cascade_operator.manifests.agent_keys import agent_key, key_secret
from cascade_operator.manifests.documents import cascade_document, last_valid
from cascade_operator.manifests.drift import Baselines, first_difference
from cascade_operator.manifests.naming import (
    ANNOTATION_CONTENT,
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAINING,
    ANNOTATION_REPLICAS,
    ANNOTATION_STOPPING,
    Owner,
    pool_labels,
    pool_object_name,
)
from cascade_operator.manifests.policies import worker_policy
from cascade_operator.manifests.pools import PoolShape, leave_time_s, measured_memory, pool_deployment, rounded_up
from cascade_operator.snapshot import PoolRef
from support.cluster_objects import ELASTIC, GPU, SETTINGS
from support.factories import make_cascade, make_profile

OWN = PoolRef("default", "cpu", "shapes")
OTHERS = (PoolRef("d", "other"), PoolRef("d", "same", "other"), PoolRef("d", "other", "other"))


def deployment(
    cascade: DiffusionCascade | None = None,
    accelerator_class: AcceleratorClass = CPU,
    *,
    profile: ProfileSpec | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The Deployment of the only pool of a cascade."""
    spec = (cascade or make_cascade()).spec
    measured = make_profile().spec if profile is None else profile
    shape = PoolShape(
        pool=OWN,
        workers=spec.workers[0],
        accelerator_class=accelerator_class,
        owner=Owner.cascade(CascadeRef("default", "shapes"), "u"),
        key_secret="shapes-cpu-agent",  # noqa: S106 - its name
        memory=measured_memory(spec, measured, spec.workers[0], accelerator_class),
        leave_s=leave_time_s(spec),
    )
    return pool_deployment(shape, **{"settings": SETTINGS, "replicas": 2, **options})


def pod_of(made: dict[str, Any]) -> dict[str, Any]:
    return dict(made["spec"]["template"]["spec"])


def container(made: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod_of(made)["containers"]
    return dict(only)


def test_names_leave_room_for_pods_and_are_nobody_else_s() -> None:
    long = pool_object_name(PoolRef("d", "v" * 63, "c" * 63), accelerator_class="a" * 63)
    assert len(long) <= 46
    # Without more than dashes between the parts these would be one.
    pools = (PoolRef("d", "c", "a-b"), PoolRef("d", "b-c", "a"), PoolRef("d", "a-b-c"))
    assert len({pool_object_name(pool, accelerator_class="cpu") for pool in pools}) == 3
    assert len({pool_object_name(pools[0], accelerator_class=on) for on in ("cpu", "gpu")}) == 2


def test_the_pool_of_nobody_has_no_pods_of_a_cascade_s() -> None:
    shared, own = (pool_labels(pool, accelerator_class="cpu") for pool in (PoolRef("d", "p"), PoolRef("d", "p", "c")))
    assert shared.keys() == own.keys()
    assert shared != own


def test_a_cascade_and_a_worker_pool_of_one_name_share_no_policy_and_select_none_of_the_other_s_pods() -> None:
    owners = (Owner.cascade(CascadeRef("d", "same"), "u"), Owner.worker_pool(PoolRef("d", "same"), "w"))
    names = {worker_policy(owner, spec={})["metadata"]["name"] for owner in owners}
    assert len(names) == 2
    for owner, pool in zip(owners, (PoolRef("d", "p", "same"), PoolRef("d", "same")), strict=True):
        selected = worker_policy(owner, spec={})["spec"]["podSelector"]["matchLabels"].items()
        labels = {ref: pool_labels(ref, accelerator_class="cpu") for ref in (pool, *OTHERS)}
        assert [ref for ref, found in labels.items() if selected <= found.items()] == [pool]


def secret(pool: PoolRef = OWN, *, uid: str = "u", own: str = "s" * 43) -> dict[str, Any]:
    key = agent_key(own, pool, uid=uid, accelerator_class="cpu")
    return key_secret(pool, key, owner=Owner.cascade(CascadeRef("default", "shapes"), uid), accelerator_class="cpu")


def test_every_pool_has_a_key_of_its_own_and_a_secret_that_is_named_by_it() -> None:
    made = [secret(), secret(uid="again"), secret(own="t" * 43), secret(PoolRef("default", "other", "shapes"))]
    assert len({one["data"]["key"] for one in made}) == len(made)
    assert len({one["metadata"]["name"] for one in made}) == len(made)
    assert secret() == made[0], "an operator that was started again makes the same"
    assert made[0]["metadata"]["ownerReferences"][0]["uid"] == "u"
    key = base64.b64decode(made[0]["data"]["key"])
    assert len(key) >= SHORTEST_KEY
    assert key.decode() not in repr(agent_key("s" * 43, OWN, uid="u", accelerator_class="cpu"))


def test_the_key_is_a_file_and_stands_in_no_command_line_or_variable() -> None:
    made = deployment()
    assert "--key-file=/etc/cascade/key" in container(made)["command"]
    (volume,) = (v for v in pod_of(made)["volumes"] if "secret" in v)
    assert volume["secret"] == {"secretName": "shapes-cpu-agent"}
    (mount,) = (m for m in container(made)["volumeMounts"] if m["name"] == volume["name"])
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/cascade", True)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_what_is_made_is_valid_for_kubernetes(version: str) -> None:
    for made in (deployment(), deployment(accelerator_class=GPU), document(), secret()):
        validate(made, version, strict=True)


def document() -> dict[str, Any]:
    return cascade_document(make_cascade(), make_profile(), uid="u")


def test_a_replica_asks_for_one_accelerator_where_its_class_is() -> None:
    made = deployment(accelerator_class=GPU)
    assert container(made)["resources"] == {"requests": {GPU.resource: "1"}, "limits": {GPU.resource: "1"}}
    assert pod_of(made)["nodeSelector"] == {"class": "test-gpu"}
    assert {"key": "example.com/gpu", "operator": "Exists"} in pod_of(made)["tolerations"]


def test_the_manifest_s_own_wishes_are_met_but_for_the_accelerator() -> None:
    template = {
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "env": [{"name": "HOME", "value": "/x"}, {"name": "POD_IP", "value": "1.2.3.4"}],
        "resources": {"requests": {"memory": "1Gi", GPU.resource: "4"}, "limits": {"memory": "2Gi"}},
        "annotations": {"team": "red"},
    }
    made = deployment(make_cascade(pool={"podTemplate": template}), GPU)
    environment = {entry["name"]: entry for entry in container(made)["env"]}
    assert environment["HOME"]["value"] == "/x"
    assert "valueFrom" in environment["POD_IP"], "what only the pod knows is not for others to say"
    assert container(made)["resources"]["requests"] == {"memory": "1Gi", GPU.resource: "1"}
    assert pod_of(made)["nodeSelector"] == {"class": "test-gpu", "zone": "a"}
    assert made["spec"]["template"]["metadata"]["annotations"] == {"team": "red"}


def test_no_autoscaler_takes_a_node_away_from_under_a_worker_unless_the_manifest_lets_it() -> None:
    def annotations(**template: Any) -> dict[str, str]:
        made = deployment(make_cascade(pool={"podTemplate": template}), ELASTIC)
        return dict(made["spec"]["template"]["metadata"]["annotations"])

    staying = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    assert annotations() == staying
    short = {"karpenter.sh/do-not-disrupt": "10m"}
    assert annotations(annotations=short) == staying | short
    assert "annotations" not in deployment(accelerator_class=GPU)["spec"]["template"]["metadata"]


EVERYTHING: dict[str, Any] = {
    "labels": {"kueue.x-k8s.io/queue-name": "images", "kai.scheduler/queue": "team-red"},
    "annotations": {"team": "red"},
    "schedulerName": "kai-scheduler",
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
    "serviceAccountName": "images.reader",
    "imagePullSecrets": [{"name": "hub"}, {"name": "ours"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                    {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]},
                ]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 7, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}
            ],
        },
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "rack", "namespaces": ["other"]}}
            ]
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname"},
                {
                    "topologyKey": "zone",
                    "labelSelector": {
                        "matchLabels": {"app": "noisy"},
                        "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
                    },
                },
            ]
        },
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
        {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}},
    ],
    "volumes": [
        {"name": "scratch", "emptyDir": {}},
        {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "a", "path": "b/a.yaml"}]}},
        {"name": "authority", "secret": {"secretName": "authority", "optional": True}},
        {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
    ],
    "volumeMounts": [
        {"name": "scratch", "mountPath": "/mnt/scratch"},
        {"name": "authority", "mountPath": "/mnt/ca", "readOnly": True},
        {"name": "weights", "mountPath": "/data/weights", "subPath": "sd35/large"},
    ],
}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_every_wish_is_met_and_valid_for_kubernetes(version: str) -> None:
    settings = SETTINGS.model_copy(update={"image_pull_secrets": ["ours"]})
    made = deployment(make_cascade(pool={"podTemplate": EVERYTHING}), settings=settings)
    validate(made, version, strict=True)
    pod, template = pod_of(made), made["spec"]["template"]
    for labels in (made["metadata"]["labels"], template["metadata"]["labels"]):
        assert EVERYTHING["labels"].items() <= labels.items()
        assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert not EVERYTHING["labels"].keys() & made["spec"]["selector"]["matchLabels"].keys(), "it can never change"
    for field in ("schedulerName", "priorityClassName", "runtimeClassName", "serviceAccountName"):
        assert pod[field] == EVERYTHING[field]
    assert pod["automountServiceAccountToken"] is False
    assert pod["imagePullSecrets"] == [{"name": "ours"}, {"name": "hub"}]
    assert first_difference(pod["affinity"]["nodeAffinity"], EVERYTHING["affinity"]["nodeAffinity"]) is None
    own = {v["name"] for v in pod_of(deployment())["volumes"]}
    volumes = [v for v in pod["volumes"] if v["name"] not in own]
    names = ["empty-scratch", "empty-fast", "config-settings", "secret-authority", "claim-weights"]
    wanted = [{**volume, "name": name} for volume, name in zip(EVERYTHING["volumes"], names, strict=True)]
    assert first_difference(volumes, wanted) is None
    mounts = container(made)["volumeMounts"][len(container(deployment())["volumeMounts"]) :]
    assert mounts == [
        {**mount, "name": name}
        for mount, name in zip(
            EVERYTHING["volumeMounts"], ["empty-scratch", "secret-authority", "claim-weights"], strict=True
        )
    ]


def test_a_volume_of_another_source_is_another_volume_of_the_pod() -> None:
    """The API server fills in parts of a source that stay when the source goes, and takes no volume with two."""
    sources = ({"emptyDir": {}}, {"configMap": {"name": "a"}}, {"secret": {"secretName": "a"}},
               {"persistentVolumeClaim": {"claimName": "a"}})  # fmt: skip
    made = [
        deployment(make_cascade(pool={"podTemplate": {"volumes": [{"name": "v", **source}]}})) for source in sources
    ]
    assert len({pod_of(one)["volumes"][-1]["name"] for one in made}) == len(sources)


def test_pods_that_are_not_said_are_those_of_the_pool() -> None:
    made = deployment(make_cascade(pool={"podTemplate": EVERYTHING}))
    affinity, pool = pod_of(made)["affinity"], made["spec"]["selector"]
    far = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (near,) = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [far[0]["labelSelector"], near["podAffinityTerm"]["labelSelector"]] == [pool, pool]
    assert far[1]["labelSelector"]["matchLabels"] == {"app": "noisy"}
    first, second = pod_of(made)["topologySpreadConstraints"]
    assert first["labelSelector"] == pool
    assert second["labelSelector"] != pool, "an empty one selects every pod of the namespace"


def test_the_page_shows_a_template_that_is_taken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()
    page = page.partition("### What a `podTemplate` may say")[2]
    template = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["podTemplate"]
    assert set(PodTemplate.model_validate(template).wire()) == {str(f.alias) for f in PodTemplate.model_fields.values()}
    validate(deployment(make_cascade(pool={"podTemplate": template})), "1.37", strict=True)


def test_a_pod_has_the_default_account_again_where_none_is_named() -> None:
    assert pod_of(deployment())["serviceAccountName"] == "default"


def test_what_the_operator_has_itself_cannot_be_taken() -> None:
    made = deployment()
    assert [volume["name"] for volume in pod_of(made)["volumes"]] == list(OWN_VOLUMES)
    for mount in container(made)["volumeMounts"]:
        for path in (mount["mountPath"], f"{mount['mountPath']}/below"):
            with pytest.raises(ValidationError, match="is the system's: nothing is mounted in"):
                VolumeMount(name="a", mount_path=path)
    for key in made["metadata"]["labels"]:
        with pytest.raises(ValidationError, match=r"is the operator's own: remove it"):
            PodTemplate(labels={key: "a"})
    for key in (ANNOTATION_CONTENT, ANNOTATION_DRAINING, ANNOTATION_DELETION_COST):
        with pytest.raises(ValidationError, match=r"is the operator's own: remove it"):
            PodTemplate(annotations={key: "a"})


def with_memory(mib: int, *, accelerator_class: str = "cpu") -> ProfileSpec:
    """A profile with this much memory in use at all but the smallest batch of every pool."""
    profile = make_profile(accelerator_class=accelerator_class).spec
    execution = [e.model_copy(update={"memory_mi_b": mib if e.batch > 1 else mib // 2}) for e in profile.execution]
    return profile.model_copy(update={"execution": execution})


@pytest.mark.parametrize(
    ("measured_mib", "request_mib", "limit_mib"), [(121, 128, 1024), (300, 512, 2048), (7000, 8192, 16384)]
)
def test_memory_is_bounded_by_what_the_profile_measured(measured_mib: int, request_mib: int, limit_mib: int) -> None:
    resources = container(deployment(profile=with_memory(measured_mib)))["resources"]
    assert resources == {
        "requests": {"cpu": "1", "memory": f"{request_mib}Mi"},
        "limits": {"cpu": "1", "memory": f"{limit_mib}Mi"},
    }
    assert limit_mib >= 2 * measured_mib + 512


def test_a_worker_that_hosts_several_weights_has_memory_for_all_of_them() -> None:
    shared = make_cascade(pool={"hosting": "shared"})
    resources = container(deployment(shared, profile=with_memory(300)))["resources"]
    assert resources["requests"]["memory"] == "1024Mi"
    assert container(deployment(profile=with_memory(300)))["resources"]["requests"]["memory"] == "512Mi"


def test_memory_has_no_bound_of_ours_where_nobody_knows_or_the_manifest_says() -> None:
    bare = {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}
    assert container(deployment(profile=with_memory(0)))["resources"] == bare
    on_gpu = container(deployment(accelerator_class=GPU, profile=with_memory(9000, accelerator_class=GPU.name)))[
        "resources"
    ]
    assert "memory" not in on_gpu["limits"], "an accelerator's memory was measured, not the pod's"
    for part in ("requests", "limits"):
        cascade = make_cascade(pool={"podTemplate": {"resources": {part: {"memory": "64Gi"}}}})
        resources = container(deployment(cascade, profile=with_memory(121)))["resources"]
        assert [p for p in resources if "memory" in resources[p]] == [part]
        assert resources[part]["memory"] == "64Gi"


def test_pods_are_the_user_that_the_operator_is_told() -> None:
    assert pod_of(deployment())["securityContext"]["runAsUser"] == 10001
    none = SETTINGS.model_copy(update={"pod_user": PodUser()})
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod_of(deployment(settings=none))["securityContext"].keys()
    own = SETTINGS.model_copy(update={"pod_user": PodUser(run_as_user=1000680000)})
    assert pod_of(deployment(settings=own))["securityContext"]["runAsUser"] == 1000680000


def test_pods_are_restricted() -> None:
    made = deployment()
    assert pod_of(made)["securityContext"]["runAsNonRoot"] is True
    assert pod_of(made)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod_of(made)["automountServiceAccountToken"] is False
    assert container(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {m["mountPath"] for m in container(made)["volumeMounts"] if not m.get("readOnly")}
    assert {"/models", "/tmp", "/dev/shm"} <= writable  # noqa: S108


def test_a_pod_serves_grpc_metrics_and_its_agent_on_the_network_and_http_to_its_agent_alone() -> None:
    made = deployment()
    assert {port["name"]: port["containerPort"] for port in container(made)["ports"]} == {
        "grpc": 8001,
        "metrics": 8002,
        "agent": 8003,
    }
    (socket,) = (word.partition("=")[2] for word in container(made)["command"] if word.startswith("--http"))
    assert socket.startswith("/tmp/")  # noqa: S108
    assert "8000" not in str(made)


def test_a_pod_is_well_while_its_agent_answers_whatever_it_hosts() -> None:
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(deployment())[kind]["httpGet"] == {"path": "/healthz", "port": "agent"}


def test_nothing_in_a_pool_depends_on_what_is_hosted_there() -> None:
    one = make_cascade()
    fewer = one.spec.model_copy(update={"variants": one.spec.variants[:1]})
    made = [deployment(cascade) for cascade in (one, one.model_copy(update={"spec": fewer}))]
    assert made[0] == made[1]


def test_no_request_in_hand_is_cut_short() -> None:
    made = deployment(make_cascade(objective__latency="45s"))
    leave = next(word for word in container(made)["command"] if word.startswith("--exit-timeout="))
    assert int(leave.partition("=")[2]) >= 45
    assert pod_of(made)["terminationGracePeriodSeconds"] > int(leave.partition("=")[2])
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_cache_is_the_claim_that_the_manifest_names() -> None:
    volumes = {
        v["name"]: v for v in pod_of(deployment(make_cascade(pool={"modelCache": {"claimName": "hf"}})))["volumes"]
    }
    assert volumes["cache"]["persistentVolumeClaim"] == {"claimName": "hf"}


def test_a_number_changes_no_template_and_a_new_measurement_hardly_ever() -> None:
    contents = {
        made["metadata"]["annotations"][ANNOTATION_CONTENT]
        for made in (
            deployment(),
            deployment(replicas=5, stopping=("b", "a"), coming=(("w1", "w2"), ("w1",))),
            deployment(profile=make_profile(light_ms=3.1).spec),
            deployment(make_cascade(objective__latency="3s", workers={"cpu": 9})),
        )
    }
    assert len(contents) == 1
    made = deployment(replicas=5, stopping=("b", "a"), coming=(("w1", "w2"), ("w1",)))
    annotations = made["metadata"]["annotations"]
    assert (annotations[ANNOTATION_REPLICAS], annotations[ANNOTATION_STOPPING]) == ("5", "a,b")
    read = read_deployment(made)
    assert (read.pool, read.wanted, read.stopping) == (OWN, 5, {"a", "b"})
    assert read.coming == (("w1", "w2"), ("w1",))
    assert not read.outdated


def test_times_are_rounded_so_that_a_measurement_restarts_nobody() -> None:
    assert [rounded_up(s) for s in (0, 10, 10.1, 400, 10**6)] == [10, 10, 30, 600, 3600]


def test_the_document_keeps_what_was_valid() -> None:
    cascade, profile = make_cascade(), make_profile()
    made = cascade_document(cascade, profile, uid="u")
    assert last_valid(made) == (cascade, profile)
    assert cascade_document(cascade, profile, uid="u") == made


@pytest.mark.parametrize("kept", [None, "", "AAAA", "not base64"])
def test_a_copy_that_cannot_be_read_is_none(kept: str | None) -> None:
    made = document()
    made["binaryData"] = {} if kept is None else {"last-valid.json.gz": kept}
    assert last_valid(made) is None


def live(made: dict[str, Any]) -> dict[str, Any]:
    """As the API server has it: with defaults of its own, and without what members of lists do not say."""
    there = json.loads(json.dumps(made))
    del there["kind"], there["apiVersion"]
    there["status"] = {"replicas": 2}
    there["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    there["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] |= {"cpu": "1000m", "memory": "2Gi"}
    return dict(there)


def test_what_the_api_server_adds_or_spells_its_own_way_is_no_edit() -> None:
    made = deployment(profile=with_memory(300))
    baselines = Baselines()
    assert baselines.difference(live(made), made) is None, "an operator that has just started finds no edit either"
    baselines.keep(live(made), made)
    assert baselines.difference(live(made), made) is None


def test_an_edit_of_what_is_managed_is_named() -> None:
    made = deployment(profile=with_memory(300))
    baselines = Baselines()
    baselines.keep(live(made), made)
    edited = copy.deepcopy(live(made))
    edited["spec"]["replicas"] = 7
    assert baselines.difference(edited, made) == "spec.replicas"
    edited = copy.deepcopy(live(made))
    edited["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "3Gi"
    assert Baselines().difference(edited, made) == "spec.template.spec.containers.0.resources.limits.memory"
    edited = copy.deepcopy(live(made))
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"
    assert baselines.difference(edited, made) == "spec.template.spec.containers.0.image"

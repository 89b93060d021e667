"""A pool as a Deployment: each pod is a worker, an agent with its Triton on one accelerator, which hosts what the agent
is told. Nothing in the Deployment depends on what that is. Pods run under restricted pod security."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.cascade import CascadeSpec
from cascade_api.names import LABEL_CASCADE, LABEL_CLASS, LABEL_POOL
from cascade_api.pods import PodTemplate
from cascade_api.profile import ProfileSpec
from cascade_api.settings import CPU, AcceleratorClass, OperatorSettings
from cascade_api.workers import Hosting, Workers

from ..snapshot import PoolRef
from .agent_keys import KEY_FILE
from .naming import (
    ANNOTATION_COMING,
    ANNOTATION_CONTENT,
    ANNOTATION_REPLICAS,
    ANNOTATION_STOPPING,
    Owner,
    digest_of,
    pool_labels,
    pool_object_name,
)

GRPC_PORT: Final = 8001
METRICS_PORT: Final = 8002
AGENT_PORT: Final = 8003
KEY_FOLDER: Final = "/etc/cascade"
CACHE_FOLDER: Final = "/var/cache/models"
SCRATCH_FOLDER: Final = "/tmp"  # noqa: S108 - a volume of the pod's own
HTTP_SOCKET: Final = f"{SCRATCH_FOLDER}/triton/http"
"""Where Triton serves HTTP: for the agent in its own container, and not on the network. The agent makes the folder, and
nobody else may enter it."""
SHARED_MEMORY_FOLDER: Final = "/dev/shm"  # noqa: S108 - where Triton has it
SETTLE_S: Final = 3
"""How long a pod that must go still takes work, until every router knows that it goes."""
STEPS_S: Final = (10, 30, 60, 120, 300, 600, 1800, 3600)
SHARED_LEAVE_S: Final = 600
"""How long a server of a WorkerPool may finish what it has in hand when its pod must go."""
AGENT_START_S: Final = 120
"""How long an agent may take until it answers; models are loaded later, however long that takes."""
PROBE_TIMEOUT_S: Final = 5
SHARED_MEMORY_MIB: Final = 512
LEAST_LIMIT_MIB: Final = 1024
"""The lowest memory limit that is set without the user's wish: starting a server and its probes takes memory, too."""
UNREACHABLE_S: Final = 30
"""A pod on a Node that is lost is given up after this time (Kubernetes' default: 300 s)."""

STAYING: Final = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""No autoscaler takes a Node away from under a worker to save money. The operator stops the workers that are too many,
and their Nodes are free to go."""

_SOURCE_NAMES: Final = {
    "emptyDir": "empty",
    "configMap": "config",
    "secret": "secret",
    "persistentVolumeClaim": "claim",
}


def measured_memory(
    spec: CascadeSpec, profile: ProfileSpec, workers: Workers, accelerator_class: AcceleratorClass
) -> dict[str, dict[str, str]]:
    """Request and limit of memory for all that a worker may host; empty if an accelerator's memory was measured.

    Shared workers may host all weights that run in their pool, and dedicated ones the largest. The limit only stops a
    process whose memory grows without end. It is twice what was measured, plus the shared memory, which counts as the
    pod's.
    """
    if accelerator_class.resource != CPU.resource:
        return {}
    by_weights: dict[str, int] = defaultdict(int)
    weights = {each.name: each.weights.digest for each in spec.variants if workers in spec.pools_of(each)}
    for row in profile.execution:
        if row.variant in weights and row.accelerator_class == accelerator_class.name:
            by_weights[weights[row.variant]] = max(by_weights[weights[row.variant]], row.memory_mi_b)
    several = workers.hosting is Hosting.SHARED
    used_mib = sum(by_weights.values()) if several else max(by_weights.values(), default=0)
    if not used_mib:
        return {}
    limit_mib = max(LEAST_LIMIT_MIB, _power_of_two(2 * used_mib + SHARED_MEMORY_MIB))
    return {"requests": {"memory": f"{_power_of_two(used_mib)}Mi"}, "limits": {"memory": f"{limit_mib}Mi"}}


@dataclass(frozen=True)
class PoolShape:
    """What a pool's pods are made of; a change of any part replaces them.

    Attributes:
        pool: the pool.
        workers: what its manifest says.
        accelerator_class: what each pod takes one of.
        owner: the cascade or the WorkerPool that it is removed with.
        key_secret: the Secret with the key of its agents.
        memory: request and limit of memory, where the manifest has none.
        leave_s: seconds that an ending server has for its requests in hand; none may take longer.
    """

    pool: PoolRef
    workers: Workers
    accelerator_class: AcceleratorClass
    owner: Owner
    key_secret: str
    memory: Mapping[str, Mapping[str, str]]
    leave_s: int

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the operator itself gives to Deployment and pods."""
        return pool_labels(self.pool, accelerator_class=self.accelerator_class.name)

    @property
    def selector(self) -> dict[str, Any]:
        """Selects the pods of the pool."""
        return {"matchLabels": {name: self.labels[name] for name in (LABEL_CASCADE, LABEL_POOL, LABEL_CLASS)}}


def pool_deployment(
    shape: PoolShape,
    *,
    settings: OperatorSettings,
    replicas: int,
    stopping: Sequence[str] = (),
    coming: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:
    """The Deployment of a pool, to be applied as a whole.

    ``replicas`` is also kept as an annotation, beside the names of pods that are to go (``stopping``) and what new ones
    are to host (``coming``), so that one write says all of it.
    """
    # Both have the labels, since queues look either at the Deployment or at its pods.
    labels = {**shape.workers.pod_template.labels, **shape.labels}
    spec = {
        "selector": shape.selector,
        # A changed template replaces one worker after the other, and never needs an additional accelerator.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": 3600,
        "template": _template(shape, labels, settings),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": pool_object_name(shape.pool, accelerator_class=shape.accelerator_class.name),
            "namespace": shape.pool.namespace,
            "labels": labels,
            "annotations": {
                ANNOTATION_CONTENT: digest_of({"labels": labels, "spec": spec}),
                ANNOTATION_REPLICAS: str(replicas),
                ANNOTATION_STOPPING: ",".join(sorted(stopping)),
                ANNOTATION_COMING: ",".join(".".join(each) for each in coming),
            },
            "ownerReferences": [shape.owner.reference],
        },
        "spec": {"replicas": replicas, **spec},
    }


def _template(shape: PoolShape, labels: dict[str, str], settings: OperatorSettings) -> dict[str, Any]:
    """The pod template."""
    custom = shape.workers.pod_template
    metadata: dict[str, Any] = {"labels": labels}
    annotations = {**(STAYING if shape.accelerator_class.elastic is not None else {}), **custom.annotations}
    if annotations:
        metadata["annotations"] = annotations
    spec: dict[str, Any] = {
        # It is always set: an account that is no longer set would stay, in a field with an older name.
        "serviceAccountName": custom.service_account_name or "default",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": SETTLE_S + shape.leave_s + 5,
        "securityContext": {
            "runAsNonRoot": True,
            **settings.pod_user.wire(),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _tolerations(shape.accelerator_class, custom),
        "containers": [_container(shape, settings)],
        "volumes": _volumes(shape),
        **_placement(custom, shape.selector),
    }
    selector = {**shape.accelerator_class.node_selector, **custom.node_selector}
    if selector:
        spec["nodeSelector"] = selector
    secrets = dict.fromkeys([*settings.image_pull_secrets, *(secret.name for secret in custom.image_pull_secrets)])
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    return {"metadata": metadata, "spec": spec}


def leave_time_s(spec: CascadeSpec) -> int:
    """Seconds that an ending server has for a cascade's requests in hand; none may take longer."""
    return rounded_up(spec.objective.latency_s)


def shared_leave_time_s(longest_s: int) -> int:
    """The same for a WorkerPool, whose longest objective is ``longest_s``.

    Cascades with other objectives come and go, and no pod for it, so it is `SHARED_LEAVE_S` unless one needs more. A
    server that has nothing in hand ends at once.
    """
    return max(longest_s, SHARED_LEAVE_S)


def _power_of_two(number: int) -> int:
    """The next power of two, for the same reason as the steps of `rounded_up`."""
    return 1 << (number - 1).bit_length()


def rounded_up(seconds: float) -> int:
    """The next of a few coarse steps: if the template changed with every measurement, every pod would be restarted."""
    return next((step for step in STEPS_S if step >= seconds), STEPS_S[-1])


def _container(shape: PoolShape, settings: OperatorSettings) -> dict[str, Any]:
    custom = shape.workers.pod_template
    volumes = _added_volumes(custom)
    return {
        "name": "triton",
        "image": settings.runtime_image,
        "command": [
            *settings.runtime_command,
            "agent",
            "--folder=/models",
            f"--listen=$(POD_IP):{AGENT_PORT}",
            f"--key-file={KEY_FOLDER}/{KEY_FILE}",
            f"--grpc-address=$(POD_IP):{GRPC_PORT}",
            f"--http-socket={HTTP_SOCKET}",
            f"--metrics-address=$(POD_IP):{METRICS_PORT}",
            "--replica-id=$(POD_NAME)",
            f"--exit-timeout={shape.leave_s}",
        ],
        "env": _environment(custom),
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
            {"name": "agent", "containerPort": AGENT_PORT},
        ],
        "resources": _resources(shape.accelerator_class, custom, shape.memory),
        **_probes(),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(SETTLE_S)]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "agent-key", "mountPath": KEY_FOLDER, "readOnly": True},
            {"name": "models", "mountPath": "/models"},
            {"name": "tmp", "mountPath": SCRATCH_FOLDER},
            {"name": "shared-memory", "mountPath": SHARED_MEMORY_FOLDER},
            {"name": "cache", "mountPath": CACHE_FOLDER},
            *({**mount, "name": volumes[mount["name"]]["name"]} for mount in custom.wire()["volumeMounts"]),
        ],
    }


def _environment(custom: PodTemplate) -> list[dict[str, Any]]:
    """Defaults, the manifest's variables, and those that only the pod knows; every name occurs once."""
    entries = [
        {"name": "HF_HOME", "value": CACHE_FOLDER},
        {"name": "HOME", "value": SCRATCH_FOLDER},
        *custom.wire().get("env", ()),
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    return list({entry["name"]: entry for entry in entries}.values())


def _resources(
    accelerator_class: AcceleratorClass, custom: PodTemplate, memory: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The manifest's resources, one accelerator, and measured memory if the manifest names none."""
    asked = custom.wire().get("resources", {})
    said = {part: dict(asked.get(part, {})) for part in ("requests", "limits")}
    measured = {} if any("memory" in part for part in said.values()) else memory
    return {
        part: {**measured.get(part, {}), **wishes, accelerator_class.resource: "1"} for part, wishes in said.items()
    }


def _probes() -> dict[str, Any]:
    """The startup, readiness and liveness probes: a pod is well while its agent answers, whatever it hosts.

    The agent itself sees to its Triton and its models, and reports them to the operator; routers send work only where
    the plan says so.
    """
    probe = {"httpGet": {"path": "/healthz", "port": "agent"}, "timeoutSeconds": PROBE_TIMEOUT_S}
    return {
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": AGENT_START_S},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 3},
    }


def _tolerations(accelerator_class: AcceleratorClass, custom: PodTemplate) -> list[Mapping[str, Any]]:
    lost = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key, seconds in (("not-ready", UNREACHABLE_S), ("unreachable", UNREACHABLE_S))
    ]
    return [*accelerator_class.tolerations, *custom.wire().get("tolerations", ()), *lost]


def _placement(custom: PodTemplate, pool: Mapping[str, Any]) -> dict[str, Any]:
    """Who places the pods, and where. Terms without a selector select the pool's own pods, since no manifest can know
    their labels."""
    wishes = custom.wire()
    placement = {
        field: wishes[field]
        for field in ("schedulerName", "priorityClassName", "runtimeClassName", "affinity", "topologySpreadConstraints")
        if wishes.get(field)
    }
    terms = [*placement.get("topologySpreadConstraints", ())]
    for part in ("podAffinity", "podAntiAffinity"):
        near = placement.get("affinity", {}).get(part, {})
        terms += near.get("requiredDuringSchedulingIgnoredDuringExecution", ())
        preferred = near.get("preferredDuringSchedulingIgnoredDuringExecution", ())
        terms += [term["podAffinityTerm"] for term in preferred]
    for term in terms:
        term.setdefault("labelSelector", pool)
    return placement


def _added_volumes(custom: PodTemplate) -> dict[str, dict[str, Any]]:
    """The volumes that the manifest adds, by their names there; in the pod the kind of source is part of the name.

    If a volume changed its source under the same name, the API server would see both sources and refuse the volume.
    """
    volumes = {}
    for volume in custom.wire()["volumes"]:
        (source,) = volume.keys() - {"name"}
        volumes[volume["name"]] = {**volume, "name": f"{_SOURCE_NAMES[source]}-{volume['name']}"}
    return volumes


def _volumes(shape: PoolShape) -> list[dict[str, Any]]:
    cache = shape.workers.model_cache
    return [
        {"name": "agent-key", "secret": {"secretName": shape.key_secret}},
        {"name": "models", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_MIB}Mi"}},
        {
            "name": "cache",
            **({"emptyDir": {}} if cache is None else {"persistentVolumeClaim": {"claimName": cache.claim_name}}),
        },
        *_added_volumes(shape.workers.pod_template).values(),
    ]

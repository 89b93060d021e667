"""A pool as a Deployment: each pod has one Triton server on one accelerator, under restricted pod security."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.cascade import DiffusionCascade, Variant
from cascade_api.names import LABEL_CASCADE, LABEL_POOL, START_TIMEOUT_S, CascadeRef
from cascade_api.pods import PodTemplate
from cascade_api.profile import ProfileSpec
from cascade_api.settings import CPU, AcceleratorClass, OperatorSettings
from cascade_api.workers import Workers

from .naming import (
    ANNOTATION_CONTENT,
    ANNOTATION_REPLICAS,
    ANNOTATION_STOPPING,
    digest_of,
    document_name,
    owner_reference,
    pool_labels,
    pool_object_name,
)

GRPC_PORT: Final = 8001
METRICS_PORT: Final = 8002
DOCUMENT_KEY: Final = "cascade.json"
DOCUMENT_FOLDER: Final = "/etc/cascade"
CACHE_FOLDER: Final = "/var/cache/models"
SCRATCH_FOLDER: Final = "/tmp"  # noqa: S108 - a volume of the pod's own
PROBE_SOCKET: Final = f"{SCRATCH_FOLDER}/triton/http"
"""Where Triton serves HTTP: for the agent and the probe in its own container, and not on the network. The agent makes
the folder, and nobody else may enter it."""
SHARED_MEMORY_FOLDER: Final = "/dev/shm"  # noqa: S108 - where Triton has it
SETTLE_S: Final = 3
"""How long a pod that must go still takes work, until every router knows that it goes."""
STEPS_S: Final = (10, 30, 60, 120, 300, 600, 1800, 3600)
LONGEST_IDLE_S: Final = 120
"""An idle replica makes an image at least this often, however long an image takes."""
SHARED_MEMORY_MIB: Final = 512
LEAST_LIMIT_MIB: Final = 1024
"""The lowest memory limit that is set without the user's wish: starting a server and its probes takes memory, too."""
UNREACHABLE_S: Final = 30
"""A pod on a Node that is lost is given up after this time (Kubernetes' default: 300 s)."""

_SOURCE_NAMES: Final = {
    "emptyDir": "empty",
    "configMap": "config",
    "secret": "secret",
    "persistentVolumeClaim": "claim",
}


@dataclass(frozen=True)
class Pace:
    """How long a replica takes, in seconds: to start, for one image and for its largest batch (95th percentiles)."""

    cold_s: float = 60.0
    image_s: float = 1.0
    batch_s: float = 1.0

    @classmethod
    def of(cls, profile: ProfileSpec | None, *, variant: str, accelerator_class: str) -> Pace:
        """The measured times, or cautious guesses if the profile has none."""
        if profile is None:
            return cls()
        pool = (variant, accelerator_class)
        batches = {e.batch: e.p95_micros / 1e6 for e in profile.execution if (e.variant, e.accelerator_class) == pool}
        cold = [s.cold_seconds for s in profile.startup if (s.variant, s.accelerator_class) == pool]
        if not batches:
            return cls()
        return cls(
            cold_s=float(max(cold, default=cls.cold_s)), image_s=batches[min(batches)], batch_s=max(batches.values())
        )


def measured_memory(
    profile: ProfileSpec | None, *, variant: str, accelerator_class: AcceleratorClass
) -> dict[str, dict[str, str]]:
    """Request and limit of memory from the profile; empty if the profile measured an accelerator's memory.

    The limit only stops a process whose memory grows without end. It is twice what was measured, plus the shared
    memory, which counts as the pod's.
    """
    if profile is None or accelerator_class.resource != CPU.resource:
        return {}
    pool = (variant, accelerator_class.name)
    used_mib = max((e.memory_mi_b for e in profile.execution if (e.variant, e.accelerator_class) == pool), default=0)
    if not used_mib:
        return {}
    limit_mib = max(LEAST_LIMIT_MIB, _power_of_two(2 * used_mib + SHARED_MEMORY_MIB))
    return {"requests": {"memory": f"{_power_of_two(used_mib)}Mi"}, "limits": {"memory": f"{limit_mib}Mi"}}


def pool_deployment(
    cascade: DiffusionCascade,
    variant: Variant,
    workers: Workers,
    accelerator_class: AcceleratorClass,
    *,
    uid: str,
    profile: ProfileSpec | None,
    settings: OperatorSettings,
    replicas: int,
    stopping: Sequence[str] = (),
) -> dict[str, Any]:
    """The Deployment of one pool of a cascade, to be applied as a whole.

    ``replicas`` is also kept as an annotation, beside the names of pods that are to go (``stopping``), so that one
    write says both.
    """
    ref = cascade.ref
    own = pool_labels(ref, variant=variant.name, accelerator_class=accelerator_class.name)
    # Both have the labels, since queues look either at the Deployment or at its pods.
    labels = {**workers.pod_template.labels, **own}
    spec = {
        "selector": _selector(own),
        # A changed template replaces one replica after the other, and never needs an additional accelerator.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": 3600,
        "template": _template(cascade, variant, workers, accelerator_class, labels, profile, settings),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": pool_object_name(ref, variant=variant.name, accelerator_class=accelerator_class.name),
            "namespace": ref.namespace,
            "labels": labels,
            "annotations": {
                ANNOTATION_CONTENT: digest_of({"labels": labels, "spec": spec}),
                ANNOTATION_REPLICAS: str(replicas),
                ANNOTATION_STOPPING: ",".join(sorted(stopping)),
            },
            "ownerReferences": [owner_reference(ref, uid)],
        },
        "spec": {"replicas": replicas, **spec},
    }


def _selector(labels: Mapping[str, str]) -> dict[str, Any]:
    """The replicas of the pool that has these labels."""
    return {"matchLabels": {LABEL_CASCADE: labels[LABEL_CASCADE], LABEL_POOL: labels[LABEL_POOL]}}


def _template(
    cascade: DiffusionCascade,
    variant: Variant,
    workers: Workers,
    accelerator_class: AcceleratorClass,
    labels: dict[str, str],
    profile: ProfileSpec | None,
    settings: OperatorSettings,
) -> dict[str, Any]:
    """The pod template."""
    custom = workers.pod_template
    metadata: dict[str, Any] = {"labels": labels}
    if custom.annotations:
        metadata["annotations"] = dict(custom.annotations)
    leave_s = leave_time_s(cascade)
    pace = Pace.of(profile, variant=variant.name, accelerator_class=accelerator_class.name)
    memory = measured_memory(profile, variant=variant.name, accelerator_class=accelerator_class)
    spec: dict[str, Any] = {
        # It is always set: an account that is no longer set would stay, in a field with an older name.
        "serviceAccountName": custom.service_account_name or "default",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": SETTLE_S + leave_s + 5,
        "securityContext": {
            "runAsNonRoot": True,
            **settings.pod_user.wire(),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _tolerations(accelerator_class, custom),
        "containers": [_container(variant, workers, accelerator_class, pace, memory, settings, leave_s)],
        "volumes": _volumes(cascade.ref, workers),
        **_placement(custom, _selector(labels)),
    }
    selector = {**accelerator_class.node_selector, **custom.node_selector}
    if selector:
        spec["nodeSelector"] = selector
    secrets = dict.fromkeys([*settings.image_pull_secrets, *(secret.name for secret in custom.image_pull_secrets)])
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    return {"metadata": metadata, "spec": spec}


def leave_time_s(cascade: DiffusionCascade) -> int:
    """Seconds that an ending server has for its requests in hand; none may take longer."""
    return rounded_up(cascade.spec.objective.latency_s)


def _power_of_two(number: int) -> int:
    """The next power of two, for the same reason as the steps of `rounded_up`."""
    return 1 << (number - 1).bit_length()


def rounded_up(seconds: float) -> int:
    """The next of a few coarse steps: if the template changed with every measurement, every pod would be restarted."""
    return next((step for step in STEPS_S if step >= seconds), STEPS_S[-1])


def _container(
    variant: Variant,
    workers: Workers,
    accelerator_class: AcceleratorClass,
    pace: Pace,
    memory: Mapping[str, Mapping[str, str]],
    settings: OperatorSettings,
    leave_s: int,
) -> dict[str, Any]:
    custom = workers.pod_template
    volumes = _added_volumes(custom)
    return {
        "name": "triton",
        "image": settings.runtime_image,
        "command": [
            *settings.runtime_command,
            "agent",
            f"--cascade={DOCUMENT_FOLDER}/{DOCUMENT_KEY}",
            f"--host={variant.weights.model}",
            "--folder=/models",
            f"--grpc-address=$(POD_IP):{GRPC_PORT}",
            f"--http-socket={PROBE_SOCKET}",
            f"--metrics-address=$(POD_IP):{METRICS_PORT}",
            "--replica-id=$(POD_NAME)",
            f"--exit-timeout={leave_s}",
        ],
        "env": _environment(custom),
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "resources": _resources(accelerator_class, custom, memory),
        **_probes(variant, pace, settings),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(SETTLE_S)]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "document", "mountPath": DOCUMENT_FOLDER, "readOnly": True},
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


def _probes(variant: Variant, pace: Pace, settings: OperatorSettings) -> dict[str, Any]:
    """The startup, readiness and liveness probes, all by inference; an idle replica makes an image now and then."""
    wait_s = rounded_up(2 * pace.batch_s + pace.image_s)
    every_s = min(rounded_up(20 * pace.image_s), LONGEST_IDLE_S)
    probe = {
        "exec": {
            "command": [
                *settings.runtime_command,
                "probe",
                f"--model={variant.weights.model}",
                f"--settings={json.dumps(variant.settings.parameters)}",
                f"--socket={PROBE_SOCKET}",
                f"--every={every_s}",
                f"--timeout={wait_s}",
            ]
        },
        # Time for the image, and for the server's counts before and after it: a busy machine must not look dead.
        "timeoutSeconds": 3 * wait_s,
    }
    start_s = max(START_TIMEOUT_S, rounded_up(5 * pace.cold_s))
    return {
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": start_s // 2},
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


def _volumes(ref: CascadeRef, workers: Workers) -> list[dict[str, Any]]:
    document = {
        "name": document_name(ref),
        "items": [{"key": DOCUMENT_KEY, "path": DOCUMENT_KEY}],
    }
    cache = workers.model_cache
    return [
        {"name": "document", "configMap": document},
        {"name": "models", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_MIB}Mi"}},
        {
            "name": "cache",
            **({"emptyDir": {}} if cache is None else {"persistentVolumeClaim": {"claimName": cache.claim_name}}),
        },
        *_added_volumes(workers.pod_template).values(),
    ]

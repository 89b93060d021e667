"""Objects that every CEL rule of the definitions takes and refuses, for whoever runs the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .crd import Definition
from .resources import ABSENT, cascade_document, profile_document

CASCADE, PROFILE = "diffusioncascades", "cascadeprofiles"
DOCUMENTS = {CASCADE: cascade_document, PROFILE: profile_document}
DEFINITIONS = {plural: Definition.load(plural) for plural in DOCUMENTS}
RISING = list(range(21))


@dataclass(frozen=True)
class Case:
    """Edits of a good document that one rule takes (``good``) or refuses (``bad``); ``update``: from the unedited."""

    plural: str
    path: str
    begins: str
    """How the rule's message begins; with the path it names one rule."""
    bad: list[dict[str, Any]]
    good: list[dict[str, Any]] = field(default_factory=list)
    update: bool = False


CASES = [
    Case(
        CASCADE, "spec.objective", "latency must be above zero",
        bad=[{"spec.objective.latency": text} for text in ("0s", "000ms")],
        good=[{"spec.objective.latency": text} for text in ("1ms", "010s", "1h")],
    ),
    Case(
        CASCADE, "spec.objective", "latency must be at most 1h",
        bad=[{"spec.objective.latency": text} for text in ("2h", "61m", "3601s", "3600001ms", "99999999999h")],
        good=[{"spec.objective.latency": text} for text in ("1h", "060m", "3600s", "0003600000ms")],
    ),
    Case(
        CASCADE, "spec.policy", "scaleToZeroAfter must be at most 720h",
        bad=[{"spec.policy.scaleToZeroAfter": text} for text in ("721h", "2592000001ms", "99999999999m")],
        good=[{"spec.policy.scaleToZeroAfter": text} for text in ("720h", "43200m", "2592000000ms", "0s")],
    ),
    Case(
        CASCADE, "spec.variants[].replicas", "min is above max",
        bad=[{"spec.variants.0.replicas": {"min": 3, "max": 2}}, {"spec.variants.0.replicas": {"min": 17}},
             {"spec.variants.1.replicas": {"min": 1, "max": 0}}],
        good=[{"spec.variants.0.replicas": {"min": 2, "max": 2}}, {"spec.variants.0.replicas": {"min": 1}},
              {"spec.variants.0.replicas": ABSENT}],
    ),
    Case(
        CASCADE, "spec.variants[]", "a variant's model, settings, engine and precision are immutable",
        bad=[{f"spec.variants.0.{name}": value} for name, value in
             {"model.source": "hf://owner/other", "model.revision": "def456", "model.weights": "light",
              "settings.steps": 3, "settings.guidance": "4.6", "engine": "onnxruntime", "precision": "bf16"}.items()]
        + [{f"spec.variants.0.{name}": ABSENT} for name in ("settings.guidance", "precision")],
        good=[{}, {"spec.variants.0.name": "renamed"}, {"spec.variants.0.replicas.max": 2},
              {"spec.variants.0": cascade_document()["spec"]["variants"][1],
               "spec.variants.1": cascade_document()["spec"]["variants"][0]}],
        update=True,
    ),
    Case(
        CASCADE, "spec.variants[]", "engine tensorrt does not run on class cpu",
        bad=[{"spec.variants.0.engine": "tensorrt", "spec.variants.0.classes": ["nvidia-l40s", "cpu"]}],
        good=[{"spec.variants.0.engine": "tensorrt"},
              {"spec.variants.0.classes": ["cpu"], "spec.variants.0.precision": "fp32"}],
    ),
    Case(
        CASCADE, "spec.variants[]", "class cpu computes in fp32 only",
        bad=[{"spec.variants.0.classes": ["nvidia-l40s", "cpu"], "spec.variants.0.precision": precision}
             for precision in ("bf16", "fp16")],
        good=[{"spec.variants.0.classes": ["cpu"], "spec.variants.0.precision": value} for value in ("fp32", ABSENT)],
    ),
    Case(
        CASCADE, "spec.hardness", "scorer learned needs source",
        bad=[{"spec.hardness": {"scorer": "learned"}}],
        good=[{"spec.hardness": {"scorer": "learned", "source": "hf://owner/scorer"}},
              {"spec.hardness": {"scorer": "coin-flip"}}, {"spec.hardness": ABSENT}],
    ),
    Case(
        CASCADE, "spec.capacity", "accelerators admits nothing",
        bad=[{"spec.capacity.accelerators": {"nvidia-l40s": 0}},
             {"spec.capacity.accelerators": {"nvidia-l40s": 0, "cpu": 0}}],
        good=[{"spec.capacity.accelerators": {"nvidia-l40s": 1, "cpu": 0}}],
    ),
    Case(
        CASCADE, "spec.podTemplate", "labels holds one that is the operator's own",
        bad=[{"spec.podTemplate.labels": {"a": "b", key: "x"}} for key in
             ("diffusioncascade.io/pool", "diffusioncascade.io/new", "app.kubernetes.io/name", "pod-template-hash",
              "app.kubernetes.io/component", "app.kubernetes.io/managed-by")],
        good=[{"spec.podTemplate.labels": {"app.kubernetes.io/part-of": "a", "kai.scheduler/queue": "q", "e": ""}},
              {"spec.podTemplate.labels": {}}, {"spec.podTemplate.labels": ABSENT}],
    ),
    Case(
        CASCADE, "spec.podTemplate", "annotations holds one that is the operator's own",
        bad=[{"spec.podTemplate.annotations": {key: "x"}} for key in
             ("diffusioncascade.io/draining-since", "controller.kubernetes.io/pod-deletion-cost")],
        good=[{"spec.podTemplate.annotations": {"example.com/a": "b"}}, {"spec.podTemplate.annotations": ABSENT}],
    ),
    Case(
        CASCADE, "spec.podTemplate", "annotations holds one that sets a security profile",
        bad=[{"spec.podTemplate.annotations": {key: "unconfined"}} for key in
             ("container.apparmor.security.beta.kubernetes.io/triton", "seccomp.security.alpha.kubernetes.io/pod",
              "container.seccomp.security.alpha.kubernetes.io/triton")],
        good=[{"spec.podTemplate.annotations": {"security": "x"}}],
    ),
    Case(
        CASCADE, "spec.podTemplate", "volumeMounts names a volume that volumes does not have",
        bad=[{"spec.podTemplate.volumeMounts.0.name": "other"}, {"spec.podTemplate.volumes": ABSENT},
             {"spec.podTemplate.volumeMounts.0.name": "cache"}],
        good=[{"spec.podTemplate.volumeMounts.0.name": "scratch"}, {"spec.podTemplate.volumeMounts": ABSENT},
              {"spec.podTemplate.volumeMounts": ABSENT, "spec.podTemplate.volumes": ABSENT}],
    ),
    Case(
        CASCADE, "spec.podTemplate.volumes[]", "name is taken",
        bad=[{"spec.podTemplate.volumes.0.name": name} for name in
             ("document", "models", "tmp", "shared-memory", "cache")],
        good=[{"spec.podTemplate.volumes.0.name": "models-2"}],
    ),
    Case(
        CASCADE, "spec.podTemplate.volumes[]", "volume needs one of",
        bad=[{"spec.podTemplate.volumes.0.emptyDir": ABSENT},
             {"spec.podTemplate.volumes.1.emptyDir": {}}],
        good=[{"spec.podTemplate.volumes.0.emptyDir": {}}],
    ),
    Case(
        CASCADE, "spec.podTemplate.volumeMounts[]", "mountPath is the system's",
        bad=[{"spec.podTemplate.volumeMounts.0.mountPath": path} for path in
             ("/etc", "/etc/cascade", "/models/light/1", "/tmp/triton-http", "/dev/shm", "/opt/cascade", "/usr/bin",  # noqa: S108
              "/var/run/secrets/kubernetes.io/serviceaccount", "/proc", "/lib64")],
        good=[{"spec.podTemplate.volumeMounts.0.mountPath": path} for path in
              ("/data", "/mnt/etc", "/etcetera", "/home/a/.cache", "/srv/usr/bin")],
    ),
    Case(
        CASCADE, "spec", "sizes is immutable",
        bad=[{"spec.sizes": ["512x768"]}],
        good=[{"spec.sizes": ["512x512"]}],
        update=True,
    ),
    Case(
        CASCADE, "spec", "a variant's classes have no accelerators",
        bad=[{"spec.variants.1.classes": ["nvidia-h100"]}, {"spec.capacity.accelerators": {"cpu": 2}},
             {"spec.capacity.accelerators": {"cpu": 2, "nvidia-l40s": 0}}],
        good=[{"spec.variants.1.classes": ["nvidia-h100", "cpu"], "spec.variants.1.precision": ABSENT}],
    ),
    Case(
        CASCADE, "spec", "capacity.accelerators has fewer",
        bad=[{"spec.variants.0.replicas.min": 4, "spec.variants.1.replicas.min": 3}],
        good=[{"spec.variants.0.replicas.min": 4, "spec.variants.1.replicas.min": 2}],
    ),
    Case(
        PROFILE, "spec.execution[]", "p95Micros is below p50Micros",
        bad=[{"spec.execution.0.p95Micros": 499_999}],
        good=[{"spec.execution.0.p95Micros": 500_000}],
    ),
    Case(
        PROFILE, "spec", "objectiveMetric is not among metrics",
        bad=[{"spec.metrics": [{"name": "clip", "direction": "max"}]}],
        good=[{"spec.objectiveMetric": "clip"}],
    ),
    Case(
        PROFILE, "spec", "execution lacks a row for batch 1",
        bad=[{"spec.execution.2.batch": 2}, {"spec.execution.1.class": "nvidia-h100"}],
        good=[{"spec.execution": profile_document()["spec"]["execution"][::-1]}],
    ),
    Case(
        PROFILE, "spec", "a row of quality lacks the objective metric",
        bad=[{"spec.quality.1.valuesMilli": {"clip": 3}}],
        good=[{"spec.quality.1.valuesMilli": {"fid": 3}}],
    ),
    Case(
        PROFILE, "spec.quality[]", "heavy is the light variant too",
        bad=[{"spec.quality.0.heavy": "light"}],
        good=[{"spec.quality.0.heavy": "other"}],
    ),
    Case(
        PROFILE, "spec.scores", "hardnessMilli must be 21 quantiles",
        bad=[{"spec.scores.hardnessMilli": points} for points in (RISING[:20], [1, *RISING[:20]], RISING[::-1])],
        good=[{"spec.scores.hardnessMilli": points} for points in ([], [7] * 21, RISING)]
        + [{"spec.scores": ABSENT}, {"spec.scores": {}}],
    ),
    Case(
        PROFILE, "spec.scores", "confidenceMilli must be 21 quantiles",
        bad=[{"spec.scores.confidenceMilli.heavy": points} for points in (RISING[:20], RISING[::-1])],
        good=[{"spec.scores.confidenceMilli": {}}, {"spec.scores.confidenceMilli.heavy": RISING}],
    ),
]  # fmt: skip

BAD = [(case, edits) for case in CASES for edits in case.bad]
GOOD = [(case, edits) for case in CASES for edits in case.good]

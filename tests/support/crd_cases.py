"""For every CEL rule of the definitions, objects that it accepts and objects that it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .crd import Definition
from .resources import ABSENT, cascade_document, pool_document, profile_document

CASCADE, PROFILE, POOL = "diffusioncascades", "cascadeprofiles", "workerpools"
DOCUMENTS = {CASCADE: cascade_document, PROFILE: profile_document, POOL: pool_document}
DEFINITIONS = {plural: Definition.load(plural) for plural in DOCUMENTS}
RISING = list(range(21))
ADAPTER = {"name": "ink", "source": "hf://owner/ink", "revision": "abc123"}
POD = "spec.workers.0.podTemplate"


@dataclass(frozen=True)
class Case:
    """Edits of a good document that a rule accepts (``good``) or refuses (``bad``); ``update``: as an update of the
    unedited document.
    """

    plural: str
    path: str
    begins: str
    """How the rule's message begins; with the path it names one rule."""
    bad: list[dict[str, Any]]
    good: list[dict[str, Any]] = field(default_factory=list)
    update: bool = False


TAYLOR_SEER = {"kind": "taylor-seer", "interval": 3}

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
        CASCADE, "spec", "objective.quality needs policy hybrid",
        bad=[{"spec.objective.quality": {"noWorseThan": "24.50"}, "spec.policy.name": name}
             for name in ("all-heavy", "hadis")],
        good=[{"spec.objective.quality": {"noWorseThan": value}} for value in ("24.50", "-1.5", "0.9750", 24)],
    ),
    Case(
        CASCADE, "spec.policy", "scaleToZeroAfter must be at most 720h",
        bad=[{"spec.policy.scaleToZeroAfter": text} for text in ("721h", "2592000001ms", "99999999999m")],
        good=[{"spec.policy.scaleToZeroAfter": text} for text in ("720h", "43200m", "2592000000ms", "0s")],
    ),
    Case(
        CASCADE, "spec.workers[]", "min is above max",
        bad=[{"spec.workers.0.min": 3, "spec.workers.0.max": 2}, {"spec.workers.1.min": 5}],
        good=[{"spec.workers.0.min": 2, "spec.workers.0.max": 2}, {"spec.workers.1.min": 2}],
    ),
    Case(
        CASCADE, "spec.variants[].settings.guidanceInterval", "fromPercent must be below toPercent",
        bad=[{"spec.variants.0.settings.guidanceInterval": {"fromPercent": low, "toPercent": high}}
             for low, high in ((60, 15), (15, 15))],
        good=[{"spec.variants.0.settings.guidanceInterval": {"fromPercent": 0, "toPercent": 100}}],
    ),
    Case(
        CASCADE, "spec.variants[].settings.stepCache", "first-block has a threshold alone",
        bad=[{"spec.variants.1.settings.stepCache": {"kind": kind, **more}} for kind, more in (
            ("first-block", {}), ("first-block", {"interval": 3}), ("first-block", {"threshold": "0.1", "interval": 3}),
            ("taylor-seer", {}), ("taylor-seer", {"threshold": "0.1"}))],
        good=[{"spec.variants.1.engine": "diffusers", "spec.variants.1.settings.stepCache": cache} for cache in (
            {"kind": "first-block", "threshold": "0.08"}, {"kind": "taylor-seer", "interval": 3})],
    ),
    Case(
        CASCADE, "spec.variants[].settings.stepCache", "threshold must be above zero",
        bad=[{"spec.variants.1.settings.stepCache": {"kind": "first-block", "threshold": "0.00"}}],
        good=[{"spec.variants.1.engine": "diffusers",
               "spec.variants.1.settings.stepCache": {"kind": "first-block", "threshold": "0.001"}}],
    ),
    Case(
        CASCADE, "spec.variants[]", "settings.stepCache needs engine diffusers",
        bad=[{"spec.variants.1.engine": engine, "spec.variants.1.settings.stepCache": TAYLOR_SEER}
             for engine in ("onnxruntime", "tensorrt")],
        good=[{"spec.variants.1.engine": "diffusers", "spec.variants.1.settings.stepCache": TAYLOR_SEER}],
    ),
    Case(
        CASCADE, "spec.workers[]", "needs name and class",
        bad=[{"spec.workers.0.name": ABSENT}, {"spec.workers.0.class": ABSENT}],
        good=[{"spec.workers.0": {"pool": "gpus", "max": 4}}],
    ),
    Case(
        CASCADE, "spec.workers[]", "pool goes with max alone",
        bad=[{"spec.workers.0": {"pool": "gpus", "max": 4, **more}} for more in (
            {"name": "gpus"}, {"class": "nvidia-l40s"}, {"min": 1}, {"hosting": "shared"}, {"budgetPerHour": "1"},
            {"modelCache": {"claimName": "cache"}}, {"podTemplate": {"labels": {"a": "b"}}})],
        good=[{"spec.workers.0": {"pool": "gpus", "max": 4}},
              {"spec.workers.0": {"pool": "gpus", "max": 4, "min": 0, "hosting": "dedicated"}}],
    ),
    Case(
        CASCADE, "spec", "workers has two pools of one name",
        bad=[{"spec.workers.1.name": "gpus", "spec.variants.1.pools": ABSENT},
             {"spec.workers.1": {"pool": "gpus", "max": 4}},
             {f"spec.workers.{i}": {"pool": "gpus", "max": 4} for i in (0, 1)}],
        good=[{f"spec.workers.{i}": {"pool": name, "max": 4} for i, name in enumerate(("gpus", "slots"))}],
    ),
    Case(
        POOL, "spec.workers", "min is above max",
        bad=[{"spec.workers.min": 3, "spec.workers.max": 2}],
        good=[{"spec.workers.min": 2, "spec.workers.max": 2}],
    ),
    Case(
        POOL, "spec", "class is immutable",
        bad=[{"spec.class": "another"}],
        good=[{}, {"spec.hosting": "dedicated"}],
        update=True,
    ),
    Case(
        CASCADE, "spec.variants[]", "a variant's model, settings, engine and precision are immutable",
        bad=[{f"spec.variants.0.{name}": value} for name, value in
             {"model.source": "hf://owner/other", "model.revision": "def456", "model.weights": "light",
              "settings.steps": 3, "settings.guidance": "4.6", "engine": "onnxruntime", "precision": "bf16"}.items()]
        + [{f"spec.variants.0.{name}": ABSENT} for name in ("settings.guidance", "precision")],
        good=[{}, {"spec.variants.0.name": "renamed"}, {"spec.variants.0.minHosts": 2},
              {"spec.variants.0": cascade_document()["spec"]["variants"][1],
               "spec.variants.1": cascade_document()["spec"]["variants"][0]}],
        update=True,
    ),
    Case(
        CASCADE, "spec.variants[]", "only public models with engine diffusers take adapters",
        bad=[{"spec.variants.0.adapters": [ADAPTER], "spec.variants.0.engine": "onnxruntime"},
             {"spec.variants.0.adapters": [ADAPTER], "spec.variants.0.model.source": "builtin://shapes"}],
        good=[{"spec.variants.0.adapters": [ADAPTER, {**ADAPTER, "name": "oil"}]}],
    ),
    Case(
        CASCADE, "spec.variants[]", "weights in int8 take no adapters",
        bad=[{"spec.variants.0.adapters": [ADAPTER], "spec.variants.0.precision": "int8"}],
        good=[{"spec.variants.0.adapters": [ADAPTER], "spec.variants.0.precision": "fp16"},
              {"spec.variants.0.precision": "int8"}],
    ),
    Case(
        CASCADE, "spec.variants[]", "edits: needs at least 2 steps",
        bad=[{"spec.variants.0.edits": True, "spec.variants.0.settings.steps": 1}],
        good=[{"spec.variants.0.edits": True, "spec.variants.0.settings.steps": 2},
              {"spec.variants.0.edits": False, "spec.variants.0.settings.steps": 1}],
    ),
    Case(
        CASCADE, "spec.variants[].adapters[]", "scale must be above zero",
        bad=[{"spec.variants.0.adapters": [{**ADAPTER, "scale": scale}]} for scale in ("0", "0.000")],
        good=[{"spec.variants.0.adapters": [{**ADAPTER, "scale": scale}]} for scale in ("0.001", "9.999", "1")],
    ),
    Case(
        CASCADE, "spec.variants[].adapters[]", "what an adapter's name means is immutable",
        bad=[{f"spec.variants.1.adapters.0.{name}": value} for name, value in
             {"source": "hf://owner/other", "revision": "def456", "weightName": ABSENT, "scale": "0.9"}.items()],
        good=[{"spec.variants.1.adapters": ABSENT}, {"spec.variants.1.adapterMemoryMiB": 2048},
              {"spec.variants.1.adapters.0": ADAPTER | {"name": "oil"}},
              {"spec.variants.0.adapters": [ADAPTER]}],
        update=True,
    ),
    Case(
        CASCADE, "spec", "engine tensorrt does not run on class cpu",
        bad=[{"spec.variants.0.engine": "tensorrt", "spec.variants.0.pools": ["gpus", "slots"]},
             {"spec.variants.0.engine": "tensorrt", "spec.variants.0.pools": ABSENT}],
        good=[{"spec.variants.0.engine": "tensorrt"},
              {"spec.variants.0.pools": ["slots"], "spec.variants.0.precision": "fp32"}],
    ),
    Case(
        CASCADE, "spec", "class cpu computes in fp32, and with engine onnxruntime in int8",
        bad=[{"spec.variants.0.engine": engine, "spec.variants.0.pools": pools, "spec.variants.0.precision": precision}
             for engine, precision in (("onnxruntime", "bf16"), ("onnxruntime", "fp16"), ("diffusers", "int8"))
             for pools in (["slots"], ABSENT)],
        good=[{"spec.variants.0.engine": "onnxruntime", "spec.variants.0.pools": ["slots"],
               "spec.variants.0.precision": value} for value in ("fp32", "int8", ABSENT)],
    ),
    Case(
        CASCADE, "spec.variants[]", "engine tensorrt does not compute in int8",
        bad=[{"spec.variants.0.engine": "tensorrt", "spec.variants.0.precision": "int8"}],
        good=[{"spec.variants.0.engine": "diffusers", "spec.variants.0.precision": "int8"},
              {"spec.variants.0.engine": "tensorrt", "spec.variants.0.precision": "fp16"}],
    ),
    Case(
        CASCADE, "spec.hardness", "scorer learned needs source",
        bad=[{"spec.hardness": {"scorer": "learned"}}],
        good=[{"spec.hardness": {"scorer": "learned", "source": "hf://owner/scorer"}},
              {"spec.hardness": {"scorer": "coin-flip"}}, {"spec.hardness": ABSENT}],
    ),
    Case(
        CASCADE, "spec", "workers admits nothing",
        bad=[{"spec.workers.0.max": 0, "spec.workers.1.max": 0}],
        good=[{"spec.workers.1.max": 0}],
    ),
    Case(
        CASCADE, "spec", "workers has two pools of one class",
        bad=[{"spec.workers.1.class": "nvidia-l40s"}],
        good=[{"spec.workers.1.class": "nvidia-h100"}],
    ),
    Case(
        CASCADE, "spec", "a variant names a pool that workers does not have",
        bad=[{"spec.variants.1.pools": ["other"]}, {"spec.variants.1.pools": ["gpus", "nvidia-l40s"]},
             {"spec.workers.0.name": "renamed"}],
        good=[{"spec.variants.1.pools": ["slots"], "spec.variants.1.precision": ABSENT}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate", "labels holds one that is the operator's own",
        bad=[{f"{POD}.labels": {"a": "b", key: "x"}} for key in
             ("diffusioncascade.io/pool", "diffusioncascade.io/new", "app.kubernetes.io/name", "pod-template-hash",
              "app.kubernetes.io/component", "app.kubernetes.io/managed-by")],
        good=[{f"{POD}.labels": {"app.kubernetes.io/part-of": "a", "kai.scheduler/queue": "q", "e": ""}},
              {f"{POD}.labels": {}}, {f"{POD}.labels": ABSENT}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate", "annotations holds one that is the operator's own",
        bad=[{f"{POD}.annotations": {key: "x"}} for key in
             ("diffusioncascade.io/draining-since", "controller.kubernetes.io/pod-deletion-cost")],
        good=[{f"{POD}.annotations": {"example.com/a": "b"}}, {f"{POD}.annotations": ABSENT}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate", "annotations holds one that sets a security profile",
        bad=[{f"{POD}.annotations": {key: "unconfined"}} for key in
             ("container.apparmor.security.beta.kubernetes.io/triton", "seccomp.security.alpha.kubernetes.io/pod",
              "container.seccomp.security.alpha.kubernetes.io/triton")],
        good=[{f"{POD}.annotations": {"security": "x"}}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate", "volumeMounts names a volume that volumes does not have",
        bad=[{f"{POD}.volumeMounts.0.name": "other"}, {f"{POD}.volumes": ABSENT},
             {f"{POD}.volumeMounts.0.name": "cache"}],
        good=[{f"{POD}.volumeMounts.0.name": "scratch"}, {f"{POD}.volumeMounts": ABSENT},
              {f"{POD}.volumeMounts": ABSENT, f"{POD}.volumes": ABSENT}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate.volumes[]", "name is taken",
        bad=[{f"{POD}.volumes.0.name": name} for name in
             ("agent-key", "models", "tmp", "shared-memory", "cache")],
        good=[{f"{POD}.volumes.0.name": "models-2"}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate.volumes[]", "volume needs one of",
        bad=[{f"{POD}.volumes.0.emptyDir": ABSENT},
             {f"{POD}.volumes.1.emptyDir": {}}],
        good=[{f"{POD}.volumes.0.emptyDir": {}}],
    ),
    Case(
        CASCADE, "spec.workers[].podTemplate.volumeMounts[]", "mountPath is the system's",
        bad=[{f"{POD}.volumeMounts.0.mountPath": path} for path in
             ("/etc", "/etc/cascade", "/models/light/1", "/tmp/triton-http", "/dev/shm", "/opt/cascade", "/usr/bin",  # noqa: S108
              "/var/run/secrets/kubernetes.io/serviceaccount", "/proc", "/lib64")],
        good=[{f"{POD}.volumeMounts.0.mountPath": path} for path in
              ("/data", "/mnt/etc", "/etcetera", "/home/a/.cache", "/srv/usr/bin")],
    ),
    Case(
        CASCADE, "spec", "sizes is immutable",
        bad=[{"spec.sizes": ["512x768"]}],
        good=[{"spec.sizes": ["512x512"]}],
        update=True,
    ),
    Case(
        CASCADE, "spec", "sizes has one with a side above 4096 pixels",
        bad=[{"spec.sizes": ["512x512", size]} for size in ("8000x5000", "4097x64", "64x4100", "5000x10")],
        good=[{"spec.sizes": ["512x512", size]} for size in ("4096x4096", "10x99", "999x3999", "4089x1000")],
    ),
    Case(
        CASCADE, "spec", "a variant's pools admit no workers",
        bad=[{"spec.workers.0.max": 0}],
        good=[{"spec.workers.0.max": 0, **{f"spec.variants.{i}.{name}": ABSENT for i in (0, 1)
                                           for name in ("pools", "precision")}}],
    ),
    Case(
        CASCADE, "spec", "variants of the same weights differ in their discriminator",
        bad=[{"spec.variants.0.discriminator": {"source": "file:///judge"}},
             {f"spec.variants.{i}.discriminator": {"source": f"file:///judge/{i}"} for i in (0, 1)}],
        good=[{f"spec.variants.{i}.discriminator": {"source": "file:///judge"} for i in (0, 1)}]
        + [{"spec.variants.0.discriminator": {"source": "file:///judge"}, f"spec.variants.0.{name}": value}
           for name, value in {"model.weights": "light", "precision": "bf16", "engine": "onnxruntime"}.items()]
        + [{"spec.variants.0.discriminator": {"source": "file:///judge"}, "spec.variants.0.precision": ABSENT}],
    ),
    Case(
        CASCADE, "spec", "discriminator is missing",
        bad=[{"spec.discriminator": ABSENT},
             {"spec.discriminator": ABSENT, "spec.variants.0.discriminator": {"source": "builtin://clip-head"}}],
        good=[{"spec.discriminator": ABSENT, "spec.variants": cascade_document()["spec"]["variants"][:1]},
              {"spec.discriminator": ABSENT,
               **{f"spec.variants.{i}.discriminator": {"source": "builtin://clip-head"} for i in (0, 1)}}],
    ),
    Case(
        CASCADE, "spec", "workers has fewer than the variants' minHosts",
        bad=[{"spec.variants.0.minHosts": 4, "spec.variants.1.minHosts": 3}],
        good=[{"spec.variants.0.minHosts": 4, "spec.variants.1.minHosts": 2}],
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
        bad=[{"spec.execution.2.batch": 2}, {"spec.execution.1.class": "nvidia-h100"},
             {"spec.execution.1.size": "768x512"}],
        good=[{"spec.execution": profile_document()["spec"]["execution"][::-1]}],
    ),
    Case(
        PROFILE, "spec", "a row of quality lacks the objective metric",
        bad=[{"spec.quality.1.valuesMilli": {"clip": 3}}],
        good=[{"spec.quality.1.valuesMilli": {"fid": 3}}],
    ),
    Case(
        PROFILE, "spec.quality[]", "chain passes a variant twice",
        bad=[{"spec.quality.0.chain": ["light", "light"]}],
        good=[{"spec.quality.0.chain": ["light", "other"]}],
    ),
    Case(
        PROFILE, "spec.quality[]", "directPercent and escalationPercent belong to a chain of two",
        bad=[{"spec.quality.0.chain": ["light"]}, {"spec.quality.0.directPercent": ABSENT},
             {"spec.quality.0.escalationPercent": ABSENT},
             {"spec.quality.0.chain": ["light"], "spec.quality.0.directPercent": ABSENT}],
        good=[{"spec.quality.0.chain": ["light"], "spec.quality.0.directPercent": ABSENT,
               "spec.quality.0.escalationPercent": ABSENT}],
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
CASES += [
    replace(
        case,
        plural=POOL,
        path=case.path.replace("spec.workers[].", "spec."),
        bad=[{path.replace(POD, "spec.podTemplate"): value for path, value in edits.items()} for edits in case.bad],
        good=[{path.replace(POD, "spec.podTemplate"): value for path, value in edits.items()} for edits in case.good],
    )
    for case in CASES
    if case.path.startswith("spec.workers[].podTemplate")
]

BAD = [(case, edits) for case in CASES for edits in case.bad]
GOOD = [(case, edits) for case in CASES for edits in case.good]

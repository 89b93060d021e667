"""Documents of both resources for tests, and edits of them by path."""

from __future__ import annotations

import copy
from typing import Any

ABSENT = object()
"""As a value in `edited`: remove the field."""


def cascade_document() -> dict[str, Any]:
    """A DiffusionCascade that passes every check and has every optional part."""
    return {
        "apiVersion": "diffusioncascade.io/v1alpha1",
        "kind": "DiffusionCascade",
        "metadata": {"name": "portraits"},
        "spec": {
            "objective": {"latency": "60s", "attainmentPercent": 99},
            "profileRef": {"name": "portraits"},
            "workers": [
                {
                    "name": "gpus",
                    "class": "nvidia-l40s",
                    "min": 0,
                    "max": 4,
                    "hosting": "dedicated",
                    "budgetPerHour": "60.00",
                    "modelCache": {"claimName": "hf-cache"},
                    "podTemplate": {
                        "nodeSelector": {"zone": "a"},
                        "tolerations": [{"key": "gpu", "operator": "Exists"}],
                        "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}],
                        "resources": {"requests": {"memory": "8Gi", "cpu": 4}},
                        "labels": {"queue": "images"},
                        "annotations": {"team": "images"},
                        "schedulerName": "kai-scheduler",
                        "priorityClassName": "serving",
                        "runtimeClassName": "nvidia",
                        "serviceAccountName": "images",
                        "imagePullSecrets": [{"name": "hub"}],
                        "affinity": {
                            "nodeAffinity": {
                                "requiredDuringSchedulingIgnoredDuringExecution": {
                                    "nodeSelectorTerms": [
                                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                                    ]
                                }
                            },
                            "podAntiAffinity": {
                                "preferredDuringSchedulingIgnoredDuringExecution": [
                                    {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
                                ]
                            },
                        },
                        "topologySpreadConstraints": [
                            {
                                "maxSkew": 1,
                                "topologyKey": "zone",
                                "whenUnsatisfiable": "ScheduleAnyway",
                                "labelSelector": {"matchLabels": {"team": "images"}},
                            }
                        ],
                        "volumes": [
                            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                            {
                                "name": "settings",
                                "configMap": {"name": "settings", "items": [{"key": "a", "path": "b/a"}]},
                            },
                            {"name": "authority", "secret": {"secretName": "authority", "optional": True}},
                            {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
                        ],
                        "volumeMounts": [
                            {"name": "weights", "mountPath": "/mnt/weights", "subPath": "a/b", "readOnly": True}
                        ],
                    },
                },
                {"name": "slots", "class": "cpu", "max": 2},
            ],
            "sizes": ["512x512"],
            "variants": [
                _variant("light", steps=2),
                {
                    **_variant("heavy", steps=50),
                    "adapters": [
                        {
                            "name": "ink",
                            "source": "hf://owner/ink",
                            "revision": "abc123",
                            "weightName": "ink.safetensors",
                            "scale": "0.8",
                        }
                    ],
                    "adapterMemoryMiB": 512,
                },
            ],
            "hardness": {"scorer": "rules"},
            "discriminator": {"source": "builtin://clip-head"},
            "policy": {"name": "hybrid", "mode": "auto", "overload": "degrade", "headroomPercent": 5, "weight": 100},
        },
    }


def _variant(name: str, *, steps: int) -> dict[str, Any]:
    return {
        "name": name,
        "model": {"source": "hf://owner/model", "revision": "abc123"},
        "settings": {"steps": steps, "guidance": "4.5"},
        "engine": "diffusers",
        "precision": "fp16",
        "pools": ["gpus"],
        "minHosts": 0,
    }


def pool_document() -> dict[str, Any]:
    """A WorkerPool that passes every check, with the workers of `cascade_document`."""
    own = dict(cascade_document()["spec"]["workers"][0])
    workers = {"min": own.pop("min"), "max": own.pop("max")}
    del own["name"]
    return {
        "apiVersion": "diffusioncascade.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "gpus"},
        "spec": {**own, "workers": workers, "hosting": "shared"},
    }


def shared_document() -> dict[str, Any]:
    """The DiffusionCascade of `cascade_document` with the WorkerPool in place of its pool ``gpus``."""
    return edited(cascade_document(), {"spec.workers.0": {"pool": "gpus", "max": 4}})


def profile_document() -> dict[str, Any]:
    """A CascadeProfile that passes every check and has every optional part."""
    quantiles = list(range(0, 1050, 50))
    return {
        "apiVersion": "diffusioncascade.io/v1alpha1",
        "kind": "CascadeProfile",
        "metadata": {"name": "portraits"},
        "spec": {
            "source": {"kind": "measured", "tool": "cascade profile", "time": "2026-11-20T10:00:00Z", "prompts": 5000},
            "metrics": [{"name": "fid", "direction": "min"}, {"name": "clip", "direction": "max"}],
            "objectiveMetric": "fid",
            "execution": [_execution("light", 1), _execution("light", 2), _execution("heavy", 1)],
            "discriminator": [{"class": "nvidia-l40s", "batch": 1, "p50Micros": 900, "p95Micros": 1000}],
            "startup": [{"variant": "light", "class": "nvidia-l40s", "coldSeconds": 45, "loadMillis": 1220}],
            "memory": [
                {
                    "variant": "light",
                    "class": "nvidia-l40s",
                    "restMiB": 7168,
                    "imageMiB": 900,
                    "components": [{"name": "t5-xxl", "memoryMiB": 9216}],
                }
            ],
            "quality": [
                {
                    "chain": ["light", "heavy"],
                    "directPercent": direct,
                    "escalationPercent": 10,
                    "valuesMilli": {"fid": 24690, "clip": 31200},
                }
                for direct in (0, 10)
            ],
            "scores": {"hardnessMilli": quantiles, "confidenceMilli": {"light": quantiles}},
        },
    }


def _execution(variant: str, batch: int) -> dict[str, Any]:
    return {
        "variant": variant,
        "class": "nvidia-l40s",
        "size": "512x512",
        "batch": batch,
        "p50Micros": 500_000 * batch,
        "p95Micros": 520_000 * batch,
        "memoryMiB": 9800,
    }


def edited(document: dict[str, Any], edits: dict[str, Any]) -> dict[str, Any]:
    """A copy with the value at each dotted path (``spec.variants.0.name``) replaced, added, or ABSENT."""
    document = copy.deepcopy(document)
    for path, value in edits.items():
        *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
        at: Any = document
        for step in steps:
            at = at[step]
        if value is ABSENT:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(value)
        else:
            at[last] = value
    return document

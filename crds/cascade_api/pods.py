"""What a cascade may add to its replicas' pods. Every field is listed here; API servers drop all others.

Fields that are not listed cannot be kept: they could be nested so deep that clients could no longer read the list of
cascades. The fields mean what they mean in Kubernetes, which refuses wrong values when a pod is created. Refused here
is what would weaken a pod (a path of the Node, a mount over files of the image, a security profile of its own), and
labels and annotations by which the operator recognises its pods.
"""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from .base import Document, field_error
from .names import GROUP
from .openapi import keyed_by, refuse_repetition, rules
from .pod_placement import Affinity, TopologySpread
from .pod_values import Flag, LabelValue, ObjectName, Quantities, Text, Word
from .pod_volumes import Volume, VolumeMount
from .quantities import Integer

_OWN_PREFIX: Final = f"{GROUP}/"
OWN_LABELS: Final = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
    "pod-template-hash",
)
"""Labels that the operator and Kubernetes give a replica, in addition to those of the operator's own group."""
OWN_ANNOTATIONS: Final = ("controller.kubernetes.io/pod-deletion-cost",)
"""Annotations that the operator gives a replica, in addition to those of its own group."""
_PROFILE_ANNOTATIONS: Final = (
    "container.apparmor.security.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
)
"""Annotations by which older clusters would run a pod without its security profile."""


def _allowed(field: str, *, prefixes: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The CEL expression that no key of a map begins with one of ``prefixes`` or is one of ``names``."""
    apart = " && ".join([*(f"!k.startsWith('{prefix}')" for prefix in prefixes), *(f"k != '{name}'" for name in names)])
    return f"!has(self.{field}) || self.{field}.all(k, {apart})"


class Toleration(Document):
    """A taint that the pods tolerate."""

    key: Word | None = None
    """The taint's key; absent: every key."""
    operator: Word | None = None
    """`Equal` or `Exists`."""
    value: Word | None = None
    """The taint's value."""
    effect: Word | None = None
    """The taint's effect; absent: every effect."""
    toleration_seconds: Integer | None = None
    """How long a taint of effect `NoExecute` is tolerated; absent: for ever."""


class KeyReference(Document):
    """A key of a Secret or ConfigMap in the same namespace."""

    name: Word
    """Name of the Secret or ConfigMap."""
    key: Word
    """The key."""
    optional: Flag | None = None
    """Whether it may be missing."""


class FieldReference(Document):
    """A field of the pod."""

    api_version: Word | None = None
    """API version to which the path belongs."""
    field_path: Word
    """The path, such as `spec.nodeName`."""


class ResourceReference(Document):
    """A request or limit of the container."""

    container_name: Word | None = None
    """The container; absent: this one."""
    resource: Word
    """The resource, such as `limits.memory`."""
    divisor: Word | None = None
    """The unit of the value."""


class VariableSource(Document):
    """Where the value of an environment variable comes from."""

    secret_key_ref: KeyReference | None = None
    config_map_key_ref: KeyReference | None = None
    field_ref: FieldReference | None = None
    resource_field_ref: ResourceReference | None = None


class Variable(Document):
    """An environment variable."""

    name: Word
    """Its name."""
    value: Text | None = None
    """Its value."""
    value_from: VariableSource | None = None


class Resources(Document):
    """Requests and limits of the container."""

    requests: Quantities = Field(default_factory=dict)
    """By resource, such as `memory: 8Gi`."""
    limits: Quantities = Field(default_factory=dict)
    """By resource."""


class PullSecret(Document):
    """A Secret with which images are pulled."""

    name: ObjectName
    """Name of the Secret."""


class PodTemplate(Document):
    """Curated overrides of a replica's pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                _allowed("labels", prefixes=(_OWN_PREFIX,), names=OWN_LABELS),
                f"labels holds one that is the operator's own ({_OWN_PREFIX}…, {', '.join(OWN_LABELS)}): remove it",
            ),
            (
                _allowed("annotations", prefixes=(_OWN_PREFIX,), names=OWN_ANNOTATIONS),
                f"annotations holds one that is the operator's own ({_OWN_PREFIX}…, {', '.join(OWN_ANNOTATIONS)}): "
                "remove it",
            ),
            (
                _allowed("annotations", prefixes=_PROFILE_ANNOTATIONS, names=()),
                "annotations holds one that sets a security profile, which is the operator's to set: remove it",
            ),
            (
                "!has(self.volumeMounts) || self.volumeMounts.all(m,"
                " has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
                "volumeMounts names a volume that volumes does not have: add it there, or write the name of one",
            ),
        )
    )

    labels: dict[str, LabelValue] = Field(default_factory=dict, max_length=32)
    """Labels of the pools' Deployments and pods, such as the name of a scheduler's queue."""
    annotations: dict[str, Text] = Field(default_factory=dict, max_length=32)
    """Annotations of the pods."""
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32)
    """Added to the node selector of the class."""
    affinity: Affinity | None = None
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32)
    """Added to the tolerations of the class."""
    topology_spread_constraints: list[TopologySpread] = Field(
        default_factory=list, max_length=8, json_schema_extra=keyed_by("topologyKey", "whenUnsatisfiable")
    )
    """How the pods are spread."""
    scheduler_name: ObjectName | None = None
    """Which scheduler places the pods; absent: the cluster's."""
    priority_class_name: ObjectName | None = None
    """Name of a PriorityClass."""
    runtime_class_name: ObjectName | None = None
    """Name of a RuntimeClass."""
    service_account_name: ObjectName | None = None
    """Service account of the pods, without its token; absent: `default`."""
    image_pull_secrets: list[PullSecret] = Field(
        default_factory=list, max_length=16, json_schema_extra=keyed_by("name")
    )
    """Added to those in the operator's settings."""
    env: list[Variable] = Field(default_factory=list, max_length=64)
    """Environment of the model container."""
    resources: Resources = Resources()
    """Requests and limits besides the accelerator."""
    volumes: list[Volume] = Field(default_factory=list, max_length=16, json_schema_extra=keyed_by("name"))
    """Added to the replicas' own."""
    volume_mounts: list[VolumeMount] = Field(
        default_factory=list, max_length=16, json_schema_extra=keyed_by("mountPath")
    )
    """Where the model container mounts them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, keys, own in (
            ("labels", self.labels, OWN_LABELS),
            ("annotations", self.annotations, OWN_ANNOTATIONS),
        ):
            for key in keys:
                if key.startswith(_OWN_PREFIX) or key in own:
                    raise field_error(field, f"{key!r} is the operator's own: remove it")
        for key in self.annotations:
            if key.startswith(_PROFILE_ANNOTATIONS):
                raise field_error("annotations", f"{key!r} sets a security profile, the operator's to set: remove it")
        spreads = ((s.topology_key, s.when_unsatisfiable) for s in self.topology_spread_constraints)
        refuse_repetition("topologySpreadConstraints", spreads, fix="keep one")
        refuse_repetition("imagePullSecrets", (s.name for s in self.image_pull_secrets), fix="name a Secret once")
        refuse_repetition("volumes", (v.name for v in self.volumes), fix="volume names must be unique")
        refuse_repetition("volumeMounts", (m.mount_path for m in self.volume_mounts), fix="mount one volume there")
        there = {volume.name for volume in self.volumes}
        for index, mount in enumerate(self.volume_mounts):
            if mount.name not in there:
                raise field_error(
                    f"volumeMounts.{index}.name",
                    f"{mount.name!r} is not among volumes: add it there, or write the name of one",
                )
        return self

"""Volumes that a cascade adds to its replicas' pods: from objects of its namespace, never from a path of a Node."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from .base import NAME_PATTERN, Document, field_error
from .openapi import rules
from .pod_values import Flag, MountPath, ObjectName, Quantity, RelativePath, Word

OWN_VOLUMES: Final = ("agent-key", "models", "tmp", "shared-memory", "cache")
"""Names of the volumes that every replica has."""
SYSTEM_FOLDERS: Final = (
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "models", "opt", "proc", "run", "sbin", "sys",
    "tmp", "usr", "var",
)  # fmt: skip
"""Top-level folders in which nothing may be mounted: they have the image's programs, or the operator's own volumes."""
_SYSTEM_PATTERN = f"^/({'|'.join(SYSTEM_FOLDERS)})(/|$)"
_SOURCES = ("empty_dir", "config_map", "secret", "persistent_volume_claim")
_SOURCES_WIRE = ("emptyDir", "configMap", "secret", "persistentVolumeClaim")
_ONE_SOURCE = f"needs one of {', '.join(_SOURCES_WIRE)}, and only one"
_OWN_NAME = f"the replicas have volumes {', '.join(OWN_VOLUMES)} of their own: choose another name"
_SYSTEM_PATH = f"nothing is mounted in /{', /'.join(SYSTEM_FOLDERS)}: choose another path, such as /mnt/data"


class EmptyDir(Document):
    """A folder that is empty when the pod starts, and is deleted with it."""

    medium: Literal["", "Memory"] = ""
    """`Memory` keeps it in memory, which counts as the pod's."""
    size_limit: Quantity | None = None
    """The most that it may hold."""


class KeyPath(Document):
    """A key as a file."""

    key: Word
    """The key."""
    path: RelativePath
    """Path of the file in the volume."""


class ConfigMapVolume(Document):
    """A ConfigMap as files."""

    name: ObjectName
    """Name of the ConfigMap."""
    items: list[KeyPath] = Field(default_factory=list, max_length=32)
    """Keys that become files; none: all."""
    optional: Flag | None = None
    """Whether it may be missing."""


class SecretVolume(Document):
    """A Secret as files."""

    secret_name: ObjectName
    """Name of the Secret."""
    items: list[KeyPath] = Field(default_factory=list, max_length=32)
    """Keys that become files; none: all."""
    optional: Flag | None = None
    """Whether it may be missing."""


class ClaimVolume(Document):
    """The volume of a PersistentVolumeClaim."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim."""
    read_only: Flag | None = None
    """Whether the pods may only read it."""


class Volume(Document):
    """A volume of the pods, from one source in the same namespace."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (f"!(self.name in {list(OWN_VOLUMES)})", f"name is taken: {_OWN_NAME}"),
            (
                f"[{', '.join(f'has(self.{s})' for s in _SOURCES_WIRE)}].filter(h, h).size() == 1",
                f"volume {_ONE_SOURCE}",
            ),
        )
    )

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=50)]
    """Its name, which `volumeMounts` use."""
    empty_dir: EmptyDir | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.name in OWN_VOLUMES:
            raise field_error("name", f"{self.name!r} is taken: {_OWN_NAME}")
        if sum(getattr(self, source) is not None for source in _SOURCES) != 1:
            raise field_error("name", f"{self.name!r} {_ONE_SOURCE}")
        return self


class VolumeMount(Document):
    """Where a volume is mounted in the model container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (f"!self.mountPath.matches('{_SYSTEM_PATTERN}')", f"mountPath is the system's: {_SYSTEM_PATH}"),
        )
    )

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=50)]
    """Name of one of `volumes`."""
    mount_path: MountPath
    """The folder, such as `/mnt/data`; it cannot be a folder of the system."""
    sub_path: RelativePath | None = None
    """A folder or file of the volume; absent: all of it."""
    read_only: Flag | None = None
    """Whether it may only be read."""

    @model_validator(mode="after")
    def _harmless(self) -> Self:
        if re.match(_SYSTEM_PATTERN, self.mount_path):
            raise field_error("mountPath", f"{self.mount_path!r} is the system's: {_SYSTEM_PATH}")
        return self

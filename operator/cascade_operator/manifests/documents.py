"""A cascade's ConfigMap: its last valid spec and profile.

While the resources are invalid, the planner uses the last valid spec and profile. This copy of them survives the
operator and Redis. It is compressed, since a profile can be larger than an object may be.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from cascade_api.cascade import DiffusionCascade
from cascade_api.profile import CascadeProfile

from .naming import ANNOTATION_CONTENT, Owner, digest_of, document_name

VALID_KEY: Final = "last-valid.json.gz"


def cascade_document(cascade: DiffusionCascade, profile: CascadeProfile, *, uid: str) -> dict[str, Any]:
    """The ConfigMap of a cascade."""
    ref, owner = cascade.ref, Owner.cascade(cascade.ref, uid)
    valid = json.dumps({"cascade": _bare(cascade), "profile": _bare(profile)}, sort_keys=True)
    content = {"binaryData": {VALID_KEY: base64.b64encode(gzip.compress(valid.encode(), mtime=0)).decode()}}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": document_name(ref),
            "namespace": ref.namespace,
            "labels": owner.labels,
            "annotations": {ANNOTATION_CONTENT: digest_of(content)},
            "ownerReferences": [owner.reference],
        },
        **content,
    }


def last_valid(config_map: Mapping[str, Any]) -> tuple[DiffusionCascade, CascadeProfile] | None:
    """The spec and profile that a ConfigMap keeps; None if it has none that can be read."""
    packed = (config_map.get("binaryData") or {}).get(VALID_KEY)
    if not packed:
        return None
    try:
        kept = json.loads(gzip.decompress(base64.b64decode(packed)))
        return DiffusionCascade.model_validate(kept["cascade"]), CascadeProfile.model_validate(kept["profile"])
    except (ValueError, KeyError, OSError, EOFError, binascii.Error, zlib.error, ValidationError):
        return None


def _bare(resource: DiffusionCascade | CascadeProfile) -> dict[str, Any]:
    """The resource without the fields that the API server adds."""
    return {
        "metadata": {"name": resource.metadata.name, "namespace": resource.metadata.namespace},
        "spec": resource.spec.wire(),
    }

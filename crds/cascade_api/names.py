"""Every name that more than one component must agree on: API group, labels, Redis keys, pool names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GROUP = "diffusioncascade.io"
VERSION = "v1alpha1"
API_VERSION: Final = "diffusioncascade.io/v1alpha1"

LABEL_CASCADE = f"{GROUP}/cascade"
LABEL_POOL = f"{GROUP}/pool"
LABEL_VARIANT = f"{GROUP}/variant"
"""Only objects of version 0.1.0 have it, which had a Deployment for each variant."""
LABEL_CLASS = f"{GROUP}/class"
FIELD_MANAGER = "diffusion-cascade"

DEFAULT_NAMESPACE = "default"
PROBE_PROMPT = "a large red circle"
"""The prompt of a probe; every model must be able to draw it."""
START_TIMEOUT_S: Final = 300
"""The least time that a server of local mode gets until it must answer: it may have to fetch weights."""

CPU_CLASS = "cpu"

# Redis keys that belong to no single cascade.
CASCADE_INDEX = "cascades"
"""Set of the cascades (``<namespace>/<name>``) whose plans are published; the operator adds and removes members."""

IN_USE_FIELD: Final = "u:"
"""Prefix of the field that counts a replica's credits in use, see `CascadeRef.credits_key`."""

# Inputs, outputs and parameters have the same names in the serving API and in the Triton models behind it.
INPUT_PROMPT = "prompt"
INPUT_NEGATIVE_PROMPT = "negative_prompt"
INPUT_SEED = "seed"
INPUT_WIDTH = "width"
INPUT_HEIGHT = "height"
INPUT_IMAGE = "image"
INPUT_MASK = "mask"
OUTPUT_IMAGE = "image"
OUTPUT_IMAGE_ENCODED = "image_encoded"
OUTPUT_CONFIDENCE = "confidence"
OUTPUT_BATCH_TIME = "batch_time"
OUTPUT_PROMPT_TOKENS = "prompt_tokens"
PARAMETER_IMAGE_FORMAT = "image_format"
PARAMETER_IMAGE_QUALITY = "image_quality"
PARAMETER_LORA = "lora"
PARAMETER_SIZE = "size"
PARAMETER_STRENGTH = "strength"

GRPC_DIRECT: Final = ("grpc.enable_http_proxy", 0)
"""Channel option of every call inside the product: use no proxy, whatever the environment says."""
GRPC_UNBOUNDED: Final = (GRPC_DIRECT, ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
"""Channel options for Triton's own client, which replace its defaults; those too allow messages of any size."""


def pool_name(*, variant: str, accelerator_class: str) -> str:
    """Name of the pool that serves ``variant`` on ``accelerator_class``."""
    return f"{variant}.{accelerator_class}"


def rate_key(tenant: str) -> str:
    """Hash, a tenant's token bucket for all routers and cascades: the ``tokens`` left ``at`` a Unix time (s); TTL."""
    return f"cascade:rate:{tenant}"


def grants_channel(router_id: str) -> str:
    """Channel on which a router receives the grants of its entries."""
    return f"grants:{router_id}"


@dataclass(frozen=True)
class CascadeRef:
    """A cascade by namespace and name, and the Redis keys that belong to it.

    Every key contains ``{namespace/name}`` in braces. So all keys of one cascade are in the same slot of a Redis
    Cluster, and one script may use them together.
    """

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> CascadeRef:
        """The inverse of ``str()``; raises ValueError unless the text is ``namespace/name``."""
        namespace, slash, name = text.partition("/")
        if not (namespace and slash and name) or "/" in name:
            raise ValueError(f"{text!r} is not namespace/name")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def prefix(self) -> str:
        return f"cascade:{{{self}}}:"

    @property
    def plan_key(self) -> str:
        """String, the plan; no TTL; only the operator writes it."""
        return f"{self.prefix}plan"

    @property
    def plan_channel(self) -> str:
        """Channel on which the operator announces a new plan; the message is its generation."""
        return f"{self.prefix}plan-changed"

    @property
    def memory_key(self) -> str:
        """String, the planner's memory between ticks; TTL; only the operator writes it."""
        return f"{self.prefix}memory"

    @property
    def demand_key(self) -> str:
        """Hash of the number of valid requests received in each Unix second (decimal); TTL."""
        return f"{self.prefix}demand"

    @property
    def routers_key(self) -> str:
        """Sorted set of router ids, by the Unix milliseconds at which each router was last seen."""
        return f"{self.prefix}routers"

    def scores_key(self, router_id: str) -> str:
        """String, the `RouterReport` of one router as JSON; TTL."""
        return f"{self.prefix}scores:{router_id}"

    def queue_key(self, pool: str) -> str:
        """Sorted set of the ids of a pool's waiting entries, the most urgent first."""
        return f"{self.prefix}queue:{pool}"

    def credits_key(self, pool: str) -> str:
        """Hash of a pool's replicas with three fields for each: ``c:<id>``, the most requests that it may have in
        flight; ``u:<id>`` (`IN_USE_FIELD`), its credits in use; ``s:<id>``, its smoothed seconds per request."""
        return f"{self.prefix}credits:{pool}"

    def leases_key(self, pool: str) -> str:
        """Sorted set of a pool's granted entries, by the Unix milliseconds at which each grant expires."""
        return f"{self.prefix}leases:{pool}"

    def job_key(self, job_id: str) -> str:
        """Hash of an asynchronous job: state, request, result; TTL."""
        return f"{self.prefix}job:{job_id}"

    @property
    def jobs_key(self) -> str:
        """Sorted set of unfinished jobs, by the Unix milliseconds from which any router may take each."""
        return f"{self.prefix}jobs"

    @property
    def jobs_open_key(self) -> str:
        """Hash of unfinished jobs: ``<deadline in Unix milliseconds> <tenant>`` by id."""
        return f"{self.prefix}jobs-open"

    @property
    def job_results_key(self) -> str:
        """Hash of the bytes of results by tenant; TTL. A second key for each tenant, ``…:<tenant>``, is the sorted set
        of its finished jobs (``<bytes> <id>``), by the Unix milliseconds at which each expires; TTL."""
        return f"{self.prefix}job-results"

    @property
    def jobs_removed_key(self) -> str:
        """Sorted set of jobs whose result was removed to make room, by the Unix milliseconds of their expiry; TTL."""
        return f"{self.prefix}jobs-removed"

    @property
    def jobs_pace_key(self) -> str:
        """Hash: ``ended``, the Unix milliseconds of the last end of a job, ``interval``, the time between two; TTL."""
        return f"{self.prefix}jobs-pace"

    def request_key(self, key: str) -> str:
        """String, the router that now serves the request with this idempotency key (hashed with its tenant); TTL."""
        return f"{self.prefix}request:{key}"

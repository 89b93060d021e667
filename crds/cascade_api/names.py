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
LABEL_CLASS = f"{GROUP}/class"
FIELD_MANAGER = "diffusion-cascade"

DEFAULT_NAMESPACE = "default"
PROBE_PROMPT = "a large red circle"
"""What a probing inference asks for; every model must be able to draw it."""
START_TIMEOUT_S: Final = 300
"""How long a server may take at least until it answers, in a pod or here: weights may have to be fetched first."""

CPU_CLASS = "cpu"

# Redis: outside every cascade's slot.
CASCADE_INDEX = "cascades"
"""Set of ``<namespace>/<name>`` whose plans are published; the operator adds and removes members."""

IN_USE_FIELD: Final = "u:"
"""Stands before a replica's id in the field of its credits in use, see `CascadeRef.credits_key`."""

# Outputs and parameters of the serving API and of the Triton models behind it (one spelling for both).
INPUT_PROMPT = "prompt"
INPUT_NEGATIVE_PROMPT = "negative_prompt"
INPUT_SEED = "seed"
OUTPUT_IMAGE = "image"
OUTPUT_IMAGE_ENCODED = "image_encoded"
OUTPUT_CONFIDENCE = "confidence"
OUTPUT_BATCH_TIME = "batch_time"
PARAMETER_IMAGE_FORMAT = "image_format"
PARAMETER_IMAGE_QUALITY = "image_quality"

GRPC_DIRECT: Final = ("grpc.enable_http_proxy", 0)
"""Channel option of every call inside the product, which goes through no proxy, whatever the environment says."""
GRPC_UNBOUNDED: Final = (GRPC_DIRECT, ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
"""Channel options of Triton's own client inside the product; those that it has itself take messages of any size too."""


def pool_name(*, variant: str, accelerator_class: str) -> str:
    """Name of the pool that serves ``variant`` on ``accelerator_class``."""
    return f"{variant}.{accelerator_class}"


def rate_key(tenant: str) -> str:
    """Hash, the token bucket of a tenant over all routers and cascades: ``tokens`` left ``at`` Unix seconds; TTL."""
    return f"cascade:rate:{tenant}"


def grants_channel(router_id: str) -> str:
    """Channel on which a router hears what was granted to its entries."""
    return f"grants:{router_id}"


@dataclass(frozen=True)
class CascadeRef:
    """A cascade by namespace and name, and the Redis keys that belong to it.

    Every key carries ``{namespace/name}`` in braces, so that all keys of one cascade live in one slot of
    a Redis Cluster and one script may touch them together.
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
        """String, the plan document; no TTL; written by the operator only."""
        return f"{self.prefix}plan"

    @property
    def plan_channel(self) -> str:
        """Channel that says that ``plan`` changed; the message is its generation."""
        return f"{self.prefix}plan-changed"

    @property
    def memory_key(self) -> str:
        """String, the planner's memory between ticks; TTL; written by the operator only."""
        return f"{self.prefix}memory"

    @property
    def demand_key(self) -> str:
        """Hash from Unix second (decimal) to the number of valid requests received in it; TTL."""
        return f"{self.prefix}demand"

    @property
    def routers_key(self) -> str:
        """Sorted set of router ids by the Unix milliseconds at which each was last seen."""
        return f"{self.prefix}routers"

    def scores_key(self, router_id: str) -> str:
        """String, JSON score sketches and realised shares of one router; TTL."""
        return f"{self.prefix}scores:{router_id}"

    def queue_key(self, pool: str) -> str:
        """Sorted set of waiting entry ids of a pool, most urgent first."""
        return f"{self.prefix}queue:{pool}"

    def credits_key(self, pool: str) -> str:
        """Hash of a pool's replicas; for each replica id: ``c:<id>`` capacity (requests in flight at most),
        `IN_USE_FIELD` before the id for credits in use, ``s:<id>`` smoothed seconds of service per request."""
        return f"{self.prefix}credits:{pool}"

    def leases_key(self, pool: str) -> str:
        """Sorted set of granted entries of a pool by the Unix milliseconds at which the grant expires."""
        return f"{self.prefix}leases:{pool}"

    def job_key(self, job_id: str) -> str:
        """Hash of an asynchronous job: state, request, result; TTL."""
        return f"{self.prefix}job:{job_id}"

    @property
    def jobs_key(self) -> str:
        """Sorted set of jobs without an end by the Unix milliseconds from which any router may take each."""
        return f"{self.prefix}jobs"

    @property
    def jobs_open_key(self) -> str:
        """Hash of jobs without an end: ``<deadline in Unix milliseconds> <tenant>`` by id."""
        return f"{self.prefix}jobs-open"

    @property
    def job_results_key(self) -> str:
        """Hash of the bytes of results by tenant; TTL. Beside it, ``…:<tenant>``: sorted set of that tenant's
        jobs with an end, ``<bytes> <id>``, by the Unix milliseconds at which each expires; TTL."""
        return f"{self.prefix}job-results"

    @property
    def jobs_removed_key(self) -> str:
        """Sorted set of jobs whose result made room for others, by the Unix milliseconds at which each expires; TTL."""
        return f"{self.prefix}jobs-removed"

    @property
    def jobs_pace_key(self) -> str:
        """Hash with ``ended``, the Unix milliseconds of the latest end of a job, and ``interval``, between two; TTL."""
        return f"{self.prefix}jobs-pace"

    def request_key(self, key: str) -> str:
        """String, the router that serves the request with this idempotency key (of one tenant, hashed); TTL."""
        return f"{self.prefix}request:{key}"

"""Settings of the operator and the router: environment variables, chart values and command-line options meet here.

Every field can be set through the environment (``CASCADE_OPERATOR_…``, ``CASCADE_ROUTER_…``; nested and
list values as JSON), which is how a chart passes its values.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .base import NAME_PATTERN, Document
from .failures import CommandFailed
from .names import CPU_CLASS
from .quantities import Money

Settings = TypeVar("Settings", bound=BaseSettings)
HostPattern = Annotated[
    str, Field(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:]+[0-9A-Fa-f:.]*\]?)$")
]
"""A name of hosts without a port."""
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9._:\[\]-]+)$")]
"""A scheme with a host and, where it is not the scheme's own, a port."""


def from_environment(kind: type[Settings]) -> Settings:
    """The settings in the environment; raises CommandFailed, which names the variables, if they are wrong."""
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        problems = []
        for problem in error.errors():
            name, *inner = map(str, problem["loc"])
            variable = f"{prefix}{name}".upper() if name in kind.model_fields else name
            problems.append(f"setting {'.'.join([variable, *inner])}: {problem['msg']}")
        raise CommandFailed("\n".join(problems), code=2) from None
    except SettingsError as error:
        raise CommandFailed(f"settings {kind.model_config.get('env_prefix', '')}…: {error}", code=2) from None


NO_REDIS_URL: Final = "not the URL of a Redis; write for example redis://127.0.0.1:6379/0"
"""The message for a wrong URL. It does not repeat the URL, which may contain a part of a password."""


def _redis_url(url: str) -> str:
    """Refuse a text that is not the URL of a Redis, with a message that repeats no part of it."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise PydanticCustomError("redis_url", NO_REDIS_URL)
    return url


RedisUrl = Annotated[str, AfterValidator(_redis_url)]


def _endpoint(text: str) -> str:
    """Refuse what is not the address of a server, such as a URL with the bucket in it."""
    if text and not re.fullmatch(
        r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?/?", text
    ):
        raise PydanticCustomError(
            "endpoint", "not the address of a server; write for example https://s3.example:9000, without the bucket"
        )
    return text


def _bucket(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", text):
        raise PydanticCustomError(
            "bucket", "not the name of a bucket: 3 to 63 letters, digits, dots and dashes; write for example images"
        )
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)*", text) or len(text) > 200:
        raise PydanticCustomError("prefix", "not the beginning of names in a bucket; write for example generated/")
    return text


Endpoint = Annotated[str, AfterValidator(_endpoint)]


PROVISION_FACTOR: Final = 2.0
"""A Node that has not come after this many times `provisionSeconds` is no longer expected."""
LONGEST_PROVISION_S: Final = 7200
"""The most that `provisionSeconds` may be."""
REOPEN_FACTOR: Final = 10.0
"""If no Node came for an elastic class, only what exists counts for this many times its `provisionSeconds`."""


class Elastic(Document):
    """Accelerators on Nodes that do not exist yet: an autoscaler makes them for pods that wait for one."""

    max: int = Field(ge=1, le=10_000)
    """The most accelerators of the class that the cluster may have."""
    provision_seconds: int = Field(ge=1, le=LONGEST_PROVISION_S)
    """How long a Node usually takes, from the pod that waits for it until the pod is placed."""


class AcceleratorClass(Document):
    """A kind of accelerator of a cluster."""

    name: str = Field(pattern=NAME_PATTERN, max_length=63)
    resource: str = Field(max_length=253)
    """Extended resource of which each replica requests one, such as `nvidia.com/gpu`."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the Nodes that have this kind."""
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """Tolerations of its pods, for Nodes that keep other pods away."""
    count: int | None = Field(default=None, ge=0)
    """How many the cascades may use; it is needed, and used, only if the operator may not read Nodes."""
    memory_mi_b: int = Field(default=0, ge=0, alias="memoryMiB")
    price_per_hour: Money = "0"
    elastic: Elastic | None = None
    """Set if an autoscaler adds Nodes of this kind."""

    @property
    def provision_s(self) -> float:
        """Seconds until a Node comes; 0 for a class whose Nodes all exist."""
        return 0.0 if self.elastic is None else float(self.elastic.provision_seconds)


class PodUser(Document):
    """The user and groups of a pod; the platform chooses those that are not given."""

    run_as_user: int | None = Field(default=None, ge=1)
    run_as_group: int | None = Field(default=None, ge=1)
    fs_group: int | None = Field(default=None, ge=1)
    """Group of the pod's volumes."""


CPU = AcceleratorClass(name=CPU_CLASS, resource="cpu")
"""Built in: a slot of one core and one thread, for the built-in models and for laptops."""


class PlannerSettings(BaseSettings):
    """Constants of the planner; times are fractions of the objective."""

    model_config = SettingsConfigDict(env_prefix="CASCADE_OPERATOR_", frozen=True)

    tick_fraction: float = Field(default=1 / 12, gt=0, le=1)
    tick_min_s: float = Field(default=0.5, gt=0)
    tick_max_s: float = Field(default=10.0, gt=0)
    pool_ticks: int = Field(default=10, ge=1, description="ticks between decisions on pools")
    forecast_window: float = Field(
        default=2.0, gt=0, description="how many objectives of arrivals the forecast looks at"
    )
    forecast_margin: float = Field(
        default=1.0, ge=1, description="factor on the forecast; headroomPercent has the same effect"
    )
    light_utilisation: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="how busy a light pool may be; a cascade's headroomPercent lowers it",
    )
    heavy_utilisation: float = Field(default=1.0, gt=0, le=1, description="the same for a heavy pool")
    escalation_offer: float = Field(
        default=1.2,
        ge=1,
        description="factor on the escalations that a full heavy pool can serve, if the rest can be degraded",
    )
    shared_offer: float = Field(
        default=1.06,
        ge=1,
        description="factor on the time of shared workers that images are planned for, if the rest can be degraded",
    )
    moves_percent: int = Field(
        default=25,
        ge=0,
        le=100,
        description="percent of a cascade's replicas, at least one, that moves may have out of service",
    )
    switch_price: float = Field(default=0.005, ge=0, description="metric units of quality given up to save one switch")
    dear_switch_price: float = Field(
        default=0.02, ge=0, description="the same if a switch takes more than half an objective"
    )
    seed: int = 0

    def tick_s(self, objective_s: float) -> float:
        """Seconds between two ticks of the planner for an objective."""
        return min(max(objective_s * self.tick_fraction, self.tick_min_s), self.tick_max_s)


class OperatorSettings(BaseSettings):
    """What the operator on a cluster watches, where it finds Redis, and what its pods run."""

    model_config = SettingsConfigDict(env_prefix="CASCADE_OPERATOR_", frozen=True)

    redis_url: RedisUrl = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL", repr=False)
    namespaces: list[str] = Field(default_factory=list, description="JSON list; empty: the whole cluster")
    accelerator_classes: list[AcceleratorClass] = Field(
        default_factory=list, description="JSON list of classes in addition to `cpu`, which is built in"
    )
    runtime_image: str = Field(
        default="diffusion-cascade/runtime:latest", description="image of the replicas: Triton and the models' code"
    )
    runtime_command: list[str] = Field(
        default_factory=lambda: ["cascade-triton"], description="JSON list: `cascade-triton` in that image"
    )
    image_pull_secrets: list[str] = Field(default_factory=list, description="JSON list of Secrets' names")
    pod_user: PodUser = Field(
        default=PodUser(run_as_user=10001, run_as_group=10001, fs_group=10001),
        description="JSON: runAsUser, runAsGroup and fsGroup of the replicas; the platform chooses missing ones",
    )
    agent_secret: str = Field(
        default="default/diffusion-cascade-agents",
        pattern=r"^[^/]+/[^/]+$",
        description="namespace/name of the Secret of the operator's own that keys of the workers' agents are derived "
        "from; the operator fills it if it is empty",
    )
    worker_network_policy: dict[str, Any] | None = Field(
        default=None,
        description="JSON: the spec, without podSelector, of the NetworkPolicy that the operator makes for the pods of "
        "each cascade; unset: it makes none",
    )
    health_address: str = Field(default="0.0.0.0:8080", description="serves /healthz, /readyz and /metrics")
    api_timeout_s: float = Field(default=5.0, gt=0, description="longest wait for one answer of the API server")
    resync_s: float = Field(
        default=60.0, gt=0, description="seconds between two comparisons of the mirror with the API server"
    )

    @property
    def classes(self) -> tuple[AcceleratorClass, ...]:
        """All classes, including the built-in one unless the settings replace it."""
        named = {c.name for c in self.accelerator_classes}
        return (*self.accelerator_classes, *(() if CPU.name in named else (CPU,)))


class RouterSettings(BaseSettings):
    """Where the router listens, and its limits."""

    model_config = SettingsConfigDict(env_prefix="CASCADE_ROUTER_", frozen=True)

    redis_url: RedisUrl = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL", repr=False)
    grpc_address: str = "127.0.0.1:8001"
    http_address: str = "127.0.0.1:8000"
    allowed_hosts: list[HostPattern] = Field(
        default_factory=list,
        description="JSON list of names by which HTTP requests may address the router, such as `images.example`,"
        " `*.example`, or `*` for any; empty: the names of loopback, and the address that it listens on",
    )
    allowed_origins: list[Origin] = Field(
        default_factory=list,
        description="JSON list of other origins whose pages may use the router (CORS), such as"
        " `https://studio.example`, or `*` for any",
    )
    console: bool = Field(
        default=True, description="serve the console at `/`; what it shows needs an API key where there are tenants"
    )
    router_id: str = Field(default="", description="name of this router; empty: host name and process id")
    health_address: str = Field(
        default="", description="serves only health and metrics over plain HTTP, for probes if the others use TLS"
    )
    tls_certificate_file: str = Field(default="", description="PEM; with it, gRPC and HTTP use only TLS")
    tls_key_file: str = ""
    tls_client_authority_file: str = Field(
        default="", description="PEM; with it, clients must present a certificate that it signed"
    )
    tenants_file: str = Field(
        default="", description="YAML of tenants, their key digests and rates; empty: everybody may ask"
    )
    queue_limit: int = Field(
        default=1000, ge=1, description="waiting entries of one pool; a tenth more for high priority, half for low"
    )
    request_limit: int = Field(default=20_000, ge=1, description="most requests that one router has in hand")
    image_bytes_limit: int = Field(
        default=512 * 1024 * 1024, ge=1, description="bytes for images of requests in hand, including their copies"
    )
    prompt_limit: int = Field(default=32_000, ge=1, description="most characters of a prompt")
    job_limit: int = Field(default=1000, ge=1, description="most jobs of one cascade that wait or are being made")
    job_bytes_limit: int = Field(
        default=128 * 2**20,
        ge=2**20,
        description="most bytes of job results of one cascade in Redis; the oldest are removed to make room",
    )
    job_tenant_percent: int = Field(
        default=50,
        ge=1,
        le=100,
        description="percent of both limits that one tenant may use; without tenants, everybody shares all of it",
    )
    job_deadline_s: float = Field(default=600.0, gt=0, description="the deadline of a job that names none")
    job_result_s: float = Field(default=3600.0, gt=0, description="longest time that the result of a job is kept")
    deadline_limit_s: float = Field(default=600.0, gt=0, description="the longest deadline a client may ask for")
    drain_s: float = Field(default=10.0, ge=0, description="longest wait for requests in hand after SIGTERM")
    traces_endpoint: str = Field(
        default="", description="OTLP over gRPC, such as http://collector:4317; empty: no traces (extra `tracing`)"
    )
    traces_share: float = Field(
        default=1.0, ge=0, le=1, description="share of the prompts without a client's trace context that are traced"
    )
    log_prompts: bool = False
    bucket: Annotated[str, AfterValidator(_bucket)] = Field(
        default="",
        description="bucket of an S3 server for images of jobs, and for those that clients want as a URL; empty: none",
    )
    bucket_endpoint: Endpoint = Field(
        default="", description="the server, such as https://s3.example:9000; empty: that of AWS in the region"
    )
    bucket_public_endpoint: Endpoint = Field(
        default="", description="the server as clients reach it, which links name; empty: the same"
    )
    bucket_region: str = Field(default="", description="empty: that of AWS_REGION, or us-east-1")
    bucket_prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="", description="what the names of images begin with, such as `generated/`"
    )
    bucket_link_s: int = Field(
        default=3600, ge=1, le=604_800, description="how long a link works; no longer than the credentials do"
    )
    bucket_timeout_s: float = Field(
        default=10.0, gt=0, description="longest wait until the bucket has an image, with all tries"
    )
    moderation_url: str = Field(
        default="",
        description="asked about prompts and images, in the form of OpenAI's moderations API; empty: nobody is",
    )
    moderation_key: str = Field(
        default="", repr=False, description="the key that this endpoint wants, if it does; it belongs in a Secret"
    )
    moderation_of: tuple[Literal["prompts", "images"], ...] = Field(
        default=("prompts", "images"), description="JSON list of what it is asked about"
    )
    moderation_failure: Literal["open", "closed"] = Field(
        default="closed", description="whether requests are served (`open`) or refused if it does not answer"
    )
    moderation_timeout_s: float = Field(default=2.0, gt=0, description="longest wait for one of its answers")

"""The plan: one decision of the planner, as the operator publishes it and routers follow it (design 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from typing_extensions import Self

from .base import Document, field_error
from .batches import batch_seconds
from .chains import Chained, refuse_twice
from .names import CascadeRef, pool_name
from .openapi import refuse_repetition
from .quantities import MOST_SIZES, Size, pixels
from .reasons import Reason
from .worker_requests import model_of_weights, settings_parameters

Tier = Literal["auto", "low", "high"]
"""The quality that a client asks for: the cheapest variant's, the best row's, or what the plan decides."""
Share = float
"""A share of requests, 0 to 1."""
Seconds = Annotated[float, Field(ge=1e-6, le=1e6)]
PATIENCE: Final = 0.5
"""Default of `Plan.patience`."""
GENERATION_AHEAD_S: Final = 24 * 3600.0
"""A generation further ahead of the clock is ignored: a router that accepted it would ignore all later plans."""


class PlanPart(Document):
    """Base of the plan's parts. Unknown fields are ignored, so that older routers can read newer operators' plans."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, allow_inf_nan=False
    )


class SeedThresholds(PlanPart):
    """The thresholds that a router uses until it has seen enough scores itself."""

    hardness: float
    confidence: float


class PlanRow(PlanPart, Chained):
    """A chain with its shares (direct, escalation), and the share of all prompts that is served in this way.

    In a chain of one variant, all prompts go direct.
    """

    share: Share = Field(gt=0, le=1)
    chain: tuple[str, ...] = Field(min_length=1, max_length=2)
    direct: Share = Field(ge=0, le=1)
    escalation: Share = Field(ge=0, le=1)
    seed_thresholds: SeedThresholds | None = None

    @model_validator(mode="after")
    def _chained(self) -> Self:
        refuse_twice("chain", self.chain)
        if self.alone and (self.direct, self.escalation) != (1, 0):
            raise field_error("direct", f"{self.light!r} is alone in its chain: all prompts go direct, none escalates")
        return self

    @property
    def first(self) -> str:
        """The variant that serves the prompts of this row first: the light one, unless all prompts go direct."""
        return self.light if self.direct < 1 else self.heavy

    @property
    def heavy_share(self) -> float:
        """T = r + (1 - r)·d, the share of this row's prompts that the heavy variant serves."""
        return self.direct + (1 - self.direct) * self.escalation

    @property
    def escalated(self) -> float:
        """The share of this row's prompts that escalate."""
        return self.heavy_share - self.direct


class PlanWorker(PlanPart):
    """One accelerator with the Triton on it. If it is draining, it gets no new requests.

    ``hosts`` are the digests of the weights in its memory. ``credits`` has the variants that it serves, and how many
    requests of each it may have at once; with 0 it finishes those that it has, and gets no more.
    """

    id: str = Field(pattern=r"^[^|\s]+$", max_length=300)
    endpoint: str = Field(pattern=r"^\S+:[0-9]+$", max_length=300)
    accelerator_class: str = Field(alias="class")
    state: Literal["ready", "draining"]
    hosts: list[str]
    credits: dict[str, Annotated[int, Field(ge=0, le=32768)]]


class PlanCrowd(PlanPart):
    """How many workers would make images of a variant if many requests came, ``after_s`` seconds later."""

    workers: int = Field(ge=1)
    after_s: Seconds = Field(alias="afterS")


class PlanTimes(PlanPart):
    """The batch size of a variant on one accelerator class, and the seconds of a batch by image size and batch size.

    If ``queue`` is given, it is another variant: the requests of both wait in the queue of that variant, for the same
    credits. ``crowd`` is given where workers of a WorkerPool would load the variant's weights for a crowd.
    """

    queue: str | None = None
    crowd: PlanCrowd | None = None
    batch: int = Field(ge=1, le=4096)
    execution_s: dict[Size, dict[Annotated[int, Field(ge=1)], Seconds]] = Field(alias="executionS")


class PlanSettings(PlanPart):
    """The settings of a variant."""

    steps: int = Field(ge=0)
    guidance: str | None = None
    guidance_interval: str | None = None
    step_cache: str | None = None

    @property
    def parameters(self) -> dict[str, int | str]:
        """The settings as parameters of a request to the Triton model."""
        return settings_parameters(self.steps, self.guidance, self.guidance_interval, self.step_cache)


class PlanVariant(PlanPart):
    """A variant: the digest of its weights, its settings, and its times on each class where it is or will be served.

    ``adapters`` has the digest of each adapter by the name that requests use. ``edits`` says whether requests may give
    an image.
    """

    weights: str
    settings: PlanSettings
    adapters: dict[str, str] = Field(default_factory=dict)
    edits: bool = False
    classes: dict[str, PlanTimes]

    @property
    def model(self) -> str:
        """Name of the Triton model of its weights."""
        return model_of_weights(self.weights)


@dataclass(frozen=True)
class Pool:
    """The workers that serve one variant on one accelerator class from one queue. It is derived from a plan.

    ``execution_s`` has the seconds of a batch by its size, for images of the plan's default size, and ``works`` the
    time of an image of each size in the plan relative to that.
    """

    variant: str
    accelerator_class: str
    batch: int
    execution_s: Mapping[int, float]
    queued_with: str
    """The variant after which the queue is named: this one, or the one whose queue it shares."""
    workers: tuple[PlanWorker, ...]
    crowd: PlanCrowd | None = None
    works: Mapping[str, float] = field(default_factory=dict)

    def work(self, size: str) -> float:
        """The work of an image of a size (empty: the default), in images of the default size."""
        return self.works.get(size, 1.0)

    @property
    def name(self) -> str:
        return pool_name(variant=self.variant, accelerator_class=self.accelerator_class)

    @property
    def queue(self) -> str:
        """Name of the queue in which the requests of this pool wait."""
        return pool_name(variant=self.queued_with, accelerator_class=self.accelerator_class)

    @property
    def ready(self) -> list[PlanWorker]:
        return [worker for worker in self.workers if self.credits(worker)]

    def credits(self, worker: PlanWorker) -> int:
        """How many requests of this variant a worker may have at once; 0 if its last ones are to end."""
        return worker.credits[self.variant] if worker.state == "ready" else 0

    @property
    def image_s(self) -> float:
        """Seconds per image in a full batch."""
        return self.batch_execution_s(self.batch) / self.batch

    def batch_execution_s(self, batch: int) -> float:
        """Seconds of a batch of this size."""
        return batch_seconds(self.execution_s, batch)


class ScorerChoice(PlanPart):
    """The hardness scorer that routers use."""

    name: Literal["rules", "learned", "coin-flip"] = "rules"
    source: str | None = None


class ImageSize(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class PlanFloor(PlanPart):
    """The floor of the quality, in units of the objective metric, and whether the plan holds it."""

    no_worse_than: float = Field(alias="noWorseThan")
    held: bool


class Expected(PlanPart):
    """What the planner expects of the plan: demand (requests/s), its work (accelerator-seconds a second), latency (s),
    quality (metric units), cost per hour.

    ``degraded`` is the share of the answers that will be degraded, because better images would be late.
    """

    demand: float
    work: float = 0.0
    latency_p99: float = Field(alias="latencyP99")
    degraded: Share = Field(default=0.0, ge=0, le=1)
    quality: float
    floor: PlanFloor | None = None
    """The quality that is to be held; absent: the best is wanted."""
    cost_per_hour: str = Field(default="0", pattern=r"^[0-9]{1,15}(\.[0-9]{1,9})?$")


class Plan(PlanPart):
    """One decision for one cascade."""

    schema_version: Literal[2] = Field(default=2, alias="schema")
    generation: int = Field(ge=0)
    cascade: str
    issued_at: str
    reason: Reason
    objective_s: Seconds = Field(alias="objectiveS")
    attainment: Share = Field(gt=0, le=1)
    overload: Literal["degrade", "strict"]
    dispatch: Literal["least-wait", "random"] = "least-wait"
    parked: bool = False
    scorer: ScorerChoice = ScorerChoice()
    discriminator: str | None = None
    stand_in: str | None = None
    """A fast variant, which makes the image if those of a row would be too late; only with ``overload: degrade``."""
    patience: Share = Field(default=PATIENCE, gt=0, le=1)
    """How long a request waits for the heavy variant if a light image can replace the heavy one: as a part of the time
    that is left until its last start in time."""
    sizes: list[Size] = Field(min_length=1, max_length=MOST_SIZES)
    """What clients may ask for, the default first."""
    variants: dict[str, PlanVariant]
    rows: list[PlanRow] = Field(min_length=1, max_length=8)
    tiers: dict[Literal["low", "high"], PlanRow] = Field(default_factory=dict)
    """The rows of requests with a tier: the cheapest variant that is hosted, and the best row. Their share is 1."""
    workers: list[PlanWorker]
    expected: Expected

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        total = sum(row.share for row in self.rows)
        if abs(total - 1) > 1e-6:
            raise field_error("rows", f"shares add up to {total:.6f}, not 1")
        for name, variant in self.variants.items():
            for on, times in variant.classes.items():
                for size in self.sizes:
                    if not times.execution_s.get(size):
                        raise field_error(f"variants.{name}.classes.{on}.executionS", f"lacks {size}")
        refuse_repetition("workers", (worker.id for worker in self.workers), fix="a worker is listed once")
        for index, worker in enumerate(self.workers):
            for name in worker.credits:
                served = self.variants.get(name)
                if served is None or worker.accelerator_class not in served.classes:
                    raise field_error(
                        f"workers.{index}.credits", f"{name!r} has no times on {worker.accelerator_class!r}"
                    )
                if served.classes[worker.accelerator_class].queue not in (None, *worker.credits):
                    raise field_error(
                        f"workers.{index}.credits", f"it does not serve the variant whose queue {name!r} waits in"
                    )
                if served.weights not in worker.hosts:
                    raise field_error(f"workers.{index}.credits", f"it does not host the weights of {name!r}")
        return self

    @property
    def ref(self) -> CascadeRef:
        return CascadeRef.parse(self.cascade)

    @property
    def image(self) -> ImageSize:
        """The size of images whose request names none."""
        return self.image_of("")

    def image_of(self, size: str) -> ImageSize:
        """Width and height of a size; empty: the default."""
        return ImageSize(*pixels(size or self.sizes[0]))

    @property
    def pools(self) -> list[Pool]:
        """All pools, in the order of variant and class; a pool may have no worker yet."""
        pools = [
            Pool(
                variant=name,
                accelerator_class=on,
                batch=times.batch,
                execution_s=times.execution_s[self.sizes[0]],
                queued_with=times.queue or name,
                workers=tuple(w for w in self.workers if w.accelerator_class == on and name in w.credits),
                crowd=times.crowd,
                works=_works(times, self.sizes[0]),
            )
            for name, variant in self.variants.items()
            for on, times in variant.classes.items()
        ]
        return sorted(pools, key=lambda pool: (pool.variant, pool.accelerator_class))

    def pools_of(self, variant: str) -> list[Pool]:
        """The pools that serve a variant, one per accelerator class."""
        return [pool for pool in self.pools if pool.variant == variant]

    def expects_worker(self, variant: str) -> bool:
        """Whether a worker serves a variant, ready or not, or will after a request, since the cascade is parked."""
        return self.parked or any(variant in worker.credits for worker in self.workers)

    @property
    def why_unservable(self) -> str | None:
        """Why the prompts of some row can never be served by this plan; None if those of each row can.

        Draining workers count as able to serve, because a plan may remove the last one. A parked cascade's plan counts
        as servable too: it has no workers until a request comes.
        """
        for index, row in enumerate(() if self.parked else self.rows):
            if not any(row.first in worker.credits for worker in self.workers):
                return f"rows[{index}]: no worker serves {row.first[:80]!r}"
        return None

    @property
    def image_shares(self) -> dict[str, float]:
        """The expected shares of all images that each variant of the rows makes; those that escalate are not light."""
        shares: dict[str, float] = {}
        for row in self.rows:
            for name, part in ((row.light, 1 - row.heavy_share), (row.heavy, row.heavy_share)):
                if part > 0:
                    shares[name] = shares.get(name, 0.0) + row.share * part
        return shares

    @property
    def call_shares(self) -> dict[str, float]:
        """How many images each variant of the rows is expected to make for each image that is answered."""
        calls: dict[str, float] = {}
        for row in self.rows:
            for name, part in ((row.light, 1 - row.direct), (row.heavy, row.heavy_share)):
                if part > 0:
                    calls[name] = calls.get(name, 0.0) + row.share * part
        return calls

    @property
    def seconds_by_variant(self) -> dict[str, float]:
        """Seconds per image of each variant in full batches, on its quickest class; without those of no class."""
        pools = {name: self.pools_of(name) for name in self.variants}
        return {name: min(pool.image_s for pool in found) for name, found in pools.items() if found}

    @property
    def answer_s(self) -> float:
        """Accelerator-seconds for each image that is answered: the sum over variants of calls · seconds per image."""
        seconds = self.seconds_by_variant
        return sum(share * seconds.get(name, 0.0) for name, share in self.call_shares.items())

    @property
    def planned_shares(self) -> dict[str, float]:
        """The expected shares of all prompts that are served direct, escalated, and light."""
        direct = sum(row.share * row.direct for row in self.rows)
        escalated = sum(row.share * row.escalated for row in self.rows)
        return {"direct": direct, "escalated": escalated, "light": 1 - direct - escalated}

    def to_json(self) -> str:
        """The plan as it is published in Redis."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The inverse of `to_json`; raises pydantic.ValidationError if the text is not a plan."""
        return cls.model_validate_json(text)


def _works(times: PlanTimes, default: str) -> dict[str, float]:
    """The time of an image of each size relative to the default's, in batches of the plan."""
    seconds = {size: batch_seconds(measured, times.batch) for size, measured in times.execution_s.items() if measured}
    return {size: took / seconds[default] for size, took in seconds.items()}


def is_credible(generation: int, *, now_s: float) -> bool:
    """Whether an operator can have used this generation by now, even if its clock differs from ours."""
    return generation <= (now_s + GENERATION_AHEAD_S) * 1000


def next_generation(*, now_s: float, last: int) -> int:
    """max(milliseconds since the epoch, last + 1), which grows even after all data was lost.

    A ``last`` that is not credible is ignored.
    """
    return max(int(now_s * 1000), last + 1 if is_credible(last, now_s=now_s) else 0)

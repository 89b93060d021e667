"""The plan: one decision of the planner, as the operator publishes it and routers follow it (design 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from typing_extensions import Self

from .base import Document, field_error
from .batches import batch_seconds
from .chains import Chained, refuse_twice
from .names import CascadeRef, pool_name
from .openapi import refuse_repetition
from .quantities import Size, pixels
from .reasons import Reason
from .worker_requests import model_of_weights, settings_parameters

Share = float
"""A share of requests, 0 to 1."""
Seconds = Annotated[float, Field(ge=1e-6, le=1e6)]
PATIENCE: Final = 0.5
"""Part of its slack that a request waits for the heavy model where a light one may stand in, unless a plan differs."""
GENERATION_AHEAD_S: Final = 24 * 3600.0
"""A generation further ahead of the clock is no operator's: whoever took it over would ignore all later plans."""


class PlanPart(Document):
    """Base of the plan's parts: a router of an older version ignores fields that it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, allow_inf_nan=False
    )


class SeedThresholds(PlanPart):
    """Thresholds that hold until a router has seen enough scores of its own."""

    hardness: float
    confidence: float


class PlanRow(PlanPart, Chained):
    """A chain at one (direct, escalation) point, and the share of the prompts that is drawn for it.

    To a variant that is alone all prompts go direct.
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
        """The variant that a prompt of this row comes to first: the heavy one where all go direct."""
        return self.light if self.direct < 1 else self.heavy

    @property
    def heavy_share(self) -> float:
        """T = r + (1 - r)·d, the share of this row's prompts that the heavy pool serves."""
        return self.direct + (1 - self.direct) * self.escalation


class PlanWorker(PlanPart):
    """One accelerator with the Triton on it; a draining one gets no new work.

    ``hosts`` are the weights in its memory, by digest. ``credits`` says which variants it serves, and how many of the
    requests of each may be with it at once; with 0 it finishes what it has, and gets no more.
    """

    id: str = Field(pattern=r"^[^|\s]+$", max_length=300)
    endpoint: str = Field(pattern=r"^\S+:[0-9]+$", max_length=300)
    accelerator_class: str = Field(alias="class")
    state: Literal["ready", "draining"]
    hosts: list[str]
    credits: dict[str, Annotated[int, Field(ge=0, le=32768)]]


class PlanTimes(PlanPart):
    """How a variant is made on one accelerator class: its batch, and seconds of batches by size of the images.

    ``queue`` is the variant whose requests its own wait together with, for the same credits; absent: none.
    """

    queue: str | None = None
    batch: int = Field(ge=1, le=4096)
    execution_s: dict[Size, dict[Annotated[int, Field(ge=1)], Seconds]] = Field(alias="executionS")


class PlanSettings(PlanPart):
    """How a variant draws."""

    steps: int = Field(ge=0)
    guidance: str | None = None

    @property
    def parameters(self) -> dict[str, int | str]:
        """What a request to its Triton model says of them."""
        return settings_parameters(self.steps, self.guidance)


class PlanVariant(PlanPart):
    """A variant: its weights, by digest, its settings, and its times on the classes where it is or will be served."""

    weights: str
    settings: PlanSettings
    classes: dict[str, PlanTimes]

    @property
    def model(self) -> str:
        """The Triton model of its weights."""
        return model_of_weights(self.weights)


@dataclass(frozen=True)
class Pool:
    """The workers that serve one variant on one accelerator class, which share a queue; as a plan implies it.

    ``execution_s`` are seconds by batch, at the size of the plan.
    """

    variant: str
    accelerator_class: str
    batch: int
    execution_s: Mapping[int, float]
    queued_with: str
    """The variant that the queue is named by: its own, or the one whose queue it shares."""
    workers: tuple[PlanWorker, ...]

    @property
    def name(self) -> str:
        return pool_name(variant=self.variant, accelerator_class=self.accelerator_class)

    @property
    def queue(self) -> str:
        """Name of the queue in which its requests wait."""
        return pool_name(variant=self.queued_with, accelerator_class=self.accelerator_class)

    @property
    def ready(self) -> list[PlanWorker]:
        return [worker for worker in self.workers if self.credits(worker)]

    def credits(self, worker: PlanWorker) -> int:
        """Requests of this variant that may be with a worker at once: none where it is to end."""
        return worker.credits[self.variant] if worker.state == "ready" else 0

    @property
    def image_s(self) -> float:
        """Seconds of one image in a full batch."""
        return self.batch_execution_s(self.batch) / self.batch

    def batch_execution_s(self, batch: int) -> float:
        """Seconds of one batch of this size."""
        return batch_seconds(self.execution_s, batch)


class ScorerChoice(PlanPart):
    """The hardness scorer in force."""

    name: Literal["rules", "learned", "coin-flip"] = "rules"
    source: str | None = None


class ImageSize(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Expected(PlanPart):
    """What the planner expects of the plan: requests/s, seconds, metric units, money per hour."""

    demand: float
    latency_p99: float = Field(alias="latencyP99")
    quality: float
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
    """A quick variant, which makes an image where the variants of a row cannot in time; ``overload: degrade`` only."""
    patience: Share = Field(default=PATIENCE, gt=0, le=1)
    """Part of its slack that a request may wait for the heavy variant where a light image may stand in for it."""
    sizes: list[Size] = Field(min_length=1, max_length=1)
    variants: dict[str, PlanVariant]
    rows: list[PlanRow] = Field(min_length=1, max_length=8)
    workers: list[PlanWorker]
    expected: Expected

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        total = sum(row.share for row in self.rows)
        if abs(total - 1) > 1e-6:
            raise field_error("rows", f"shares add up to {total:.6f}, not 1")
        for name, variant in self.variants.items():
            for on, times in variant.classes.items():
                if not times.execution_s.get(self.sizes[0]):
                    raise field_error(f"variants.{name}.classes.{on}.executionS", f"lacks {self.sizes[0]}")
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
        """Size of every image of the cascade."""
        return ImageSize(*pixels(self.sizes[0]))

    @property
    def pools(self) -> list[Pool]:
        """Every pool, in the order of the names; some have no worker yet."""
        pools = [
            Pool(
                variant=name,
                accelerator_class=on,
                batch=times.batch,
                execution_s=times.execution_s[self.sizes[0]],
                queued_with=times.queue or name,
                workers=tuple(w for w in self.workers if w.accelerator_class == on and name in w.credits),
            )
            for name, variant in self.variants.items()
            for on, times in variant.classes.items()
        ]
        return sorted(pools, key=lambda pool: (pool.variant, pool.accelerator_class))

    def pools_of(self, variant: str) -> list[Pool]:
        """Pools that serve a variant (one per accelerator class)."""
        return [pool for pool in self.pools if pool.variant == variant]

    @property
    def why_unservable(self) -> str | None:
        """Why no prompt of some row could be served even if all went well; None where each could be.

        A worker that drains counts: a plan may say that the last one goes. So does a parked cascade's plan, which has
        none until somebody asks.
        """
        for index, row in enumerate(() if self.parked else self.rows):
            if not any(row.first in worker.credits for worker in self.workers):
                return f"rows[{index}]: no worker serves {row.first[:80]!r}"
        return None

    @property
    def planned_shares(self) -> dict[str, float]:
        """Expected share of all prompts by way of serving: direct, escalated, light."""
        direct = sum(row.share * row.direct for row in self.rows)
        escalated = sum(row.share * (row.heavy_share - row.direct) for row in self.rows)
        return {"direct": direct, "escalated": escalated, "light": 1 - direct - escalated}

    def to_json(self) -> str:
        """The plan as published in Redis."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Inverse of `to_json`; raises pydantic.ValidationError for anything that is not a plan."""
        return cls.model_validate_json(text)


def is_credible(generation: int, *, now_s: float) -> bool:
    """Whether an operator can have given a plan this number by now, however clocks differ."""
    return generation <= (now_s + GENERATION_AHEAD_S) * 1000


def next_generation(*, now_s: float, last: int) -> int:
    """max(milliseconds since the epoch, last + 1): grows even after everything was lost.

    A ``last`` that no operator can have given is left aside.
    """
    return max(int(now_s * 1000), last + 1 if is_credible(last, now_s=now_s) else 0)

"""The plan: one decision of the planner, as the operator publishes it and routers follow it (design 5.2)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from typing_extensions import Self

from .base import Document, field_error
from .chains import Chained, refuse_twice
from .names import CascadeRef
from .reasons import Reason

Share = float
"""A share of requests, 0 to 1."""
Seconds = Annotated[float, Field(ge=1e-6, le=1e6)]
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


class PlanReplica(PlanPart):
    """One Triton server of a pool; a draining one gets no new work."""

    id: str = Field(pattern=r"^[^|\s]+$", max_length=300)
    endpoint: str = Field(pattern=r"^\S+:[0-9]+$", max_length=300)
    state: Literal["ready", "draining"]


class PlanPool(PlanPart):
    """The replicas that serve one variant on one accelerator class."""

    name: str
    variant: str
    accelerator_class: str = Field(alias="class")
    batch: int = Field(ge=1, le=4096)
    credit_factor: int = Field(default=1, ge=1, le=8)
    execution_s: dict[Annotated[int, Field(ge=1)], Seconds] = Field(min_length=1, alias="executionS")
    replicas: list[PlanReplica]

    @property
    def ready(self) -> list[PlanReplica]:
        return [replica for replica in self.replicas if replica.state == "ready"]

    def batch_execution_s(self, batch: int) -> float:
        """Seconds of one batch: measured, interpolated between two measured sizes, or extended linearly."""
        known = sorted(self.execution_s)
        if batch in self.execution_s:
            return self.execution_s[batch]
        above = [size for size in known if size > batch]
        below = [size for size in known if size < batch]
        if above and below:
            low, high = below[-1], above[0]
            weight = (batch - low) / (high - low)
            return self.execution_s[low] * (1 - weight) + self.execution_s[high] * weight
        nearest = below[-1] if below else above[0]
        return self.execution_s[nearest] * batch / nearest


class ScorerChoice(PlanPart):
    """The hardness scorer in force."""

    name: Literal["rules", "learned", "coin-flip"] = "rules"
    source: str | None = None


class ImageSize(PlanPart):
    """Size of every image of the cascade, in pixels."""

    width: int = Field(ge=1, le=65536)
    height: int = Field(ge=1, le=65536)


class PlanVariant(PlanPart):
    """What a router must know of a variant."""

    steps: int = Field(ge=0)


class Expected(PlanPart):
    """What the planner expects of the plan: requests/s, seconds, metric units, money per hour."""

    demand: float
    latency_p99: float = Field(alias="latencyP99")
    quality: float
    cost_per_hour: str = Field(default="0", pattern=r"^[0-9]{1,15}(\.[0-9]{1,9})?$")


class Plan(PlanPart):
    """One decision for one cascade."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
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
    discriminator: str
    image: ImageSize
    variants: dict[str, PlanVariant]
    rows: list[PlanRow] = Field(min_length=1, max_length=8)
    pools: list[PlanPool]
    expected: Expected

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        total = sum(row.share for row in self.rows)
        if abs(total - 1) > 1e-6:
            raise field_error("rows", f"shares add up to {total:.6f}, not 1")
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise field_error("pools", "two pools share a name")
        return self

    @property
    def ref(self) -> CascadeRef:
        return CascadeRef.parse(self.cascade)

    def pools_of(self, variant: str) -> list[PlanPool]:
        """Pools that serve a variant (one per accelerator class)."""
        return [pool for pool in self.pools if pool.variant == variant]

    @property
    def why_unservable(self) -> str | None:
        """Why no prompt of some row could be served even if all went well; None where each could be.

        A replica that drains counts: a plan may say that the last one goes. So does a parked cascade's plan, which has
        none until somebody asks.
        """
        for index, row in enumerate(() if self.parked else self.rows):
            if not any(pool.replicas for pool in self.pools_of(row.first)):
                return f"rows[{index}]: no pool has a replica of {row.first[:80]!r}"
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

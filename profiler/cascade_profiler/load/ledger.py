"""Keeps account of every request by its id. Pure.

The account is balanced if sent = answered + refused + lost, no request was silent, and none was answered twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class OutcomeKind(Enum):
    """How a request that was sent can end."""

    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"
    SILENT = "silent"


@dataclass(frozen=True)
class Outcome:
    """The end of one request. ``latency_s`` is measured from the time at which it should have been sent.

    ``status`` is the gRPC status of a refusal, and ``route`` says how an answered image was made.
    """

    kind: OutcomeKind
    latency_s: float
    status: str = ""
    detail: str = ""
    route: str = ""


@dataclass
class Ledger:
    """The account of one run. ``unsent`` counts requests that were not sent because too many were in flight."""

    deadline_s: float
    sent: dict[str, float] = field(default_factory=dict)
    """By request id, how many seconds after its arrival a request was really sent: a busy machine sends late."""
    unsent: int = 0
    retried: int = 0
    answered_twice: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    planned: Counter[str] = field(default_factory=Counter)
    """For each route, the sum over all answers of the share that the plan gave it when the answer came."""
    planned_answers: int = 0

    def send(self, request_id: str, *, behind_s: float) -> None:
        """Record that a request was sent, ``behind_s`` seconds after it should have been."""
        if request_id in self.sent:
            raise ValueError(f"request {request_id} was sent before")
        self.sent[request_id] = behind_s

    def settle(self, request_id: str, outcome: Outcome) -> None:
        """Record the end of a request. A second answer to the same id is only counted; the first one is kept."""
        if request_id not in self.sent:
            raise ValueError(f"request {request_id} was never sent")
        if request_id in self.outcomes:
            self.answered_twice += outcome.kind is OutcomeKind.ANSWERED
            return
        self.outcomes[request_id] = outcome

    def plan_in_force(self, shares: dict[str, float]) -> None:
        """Add the planned shares that were in force when one request was answered."""
        self.planned.update(shares)
        self.planned_answers += 1

    def count(self, kind: OutcomeKind) -> int:
        return sum(outcome.kind is kind for outcome in self.outcomes.values())

    @property
    def in_flight(self) -> int:
        return len(self.sent) - len(self.outcomes)

    @property
    def balanced(self) -> bool:
        """Whether each sent request was answered, refused or lost with its connection, exactly once."""
        ended = self.count(OutcomeKind.ANSWERED) + self.count(OutcomeKind.REFUSED) + self.count(OutcomeKind.LOST)
        return ended == len(self.sent) and self.answered_twice == 0

    def violates(self, outcome: Outcome) -> bool:
        """Whether a request missed its objective: late, refused, lost or without an answer."""
        return outcome.kind is not OutcomeKind.ANSWERED or outcome.latency_s > self.deadline_s

    @property
    def violations(self) -> int:
        return sum(map(self.violates, self.outcomes.values())) + self.in_flight

    @property
    def refusals(self) -> Counter[str]:
        """Refusals by gRPC status."""
        return Counter(o.status for o in self.outcomes.values() if o.kind is OutcomeKind.REFUSED)

    @property
    def routes(self) -> Counter[str]:
        """Answers by route."""
        return Counter(o.route for o in self.outcomes.values() if o.kind is OutcomeKind.ANSWERED)

    @property
    def latencies_s(self) -> list[float]:
        """The latencies of the answers, sorted."""
        return sorted(o.latency_s for o in self.outcomes.values() if o.kind is OutcomeKind.ANSWERED)

    @property
    def planned_shares(self) -> dict[str, float]:
        """The mean planned share of each route over the answers; empty if no plan was seen."""
        if not self.planned_answers:
            return {}
        return {route: total / self.planned_answers for route, total in self.planned.items()}

    @property
    def realised_shares(self) -> dict[str, float]:
        """The share of each route among the answers. A degraded answer is a light image, so it counts as light."""
        answers = sum(self.routes.values())
        if not answers:
            return {}
        shares = {route: self.routes[route] / answers for route in ("direct", "escalated", "light")}
        shares["light"] += self.routes["degraded"] / answers
        return shares

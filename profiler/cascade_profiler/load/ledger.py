"""What became of every request, by its id (pure): sent = answered + refused + lost, none silent, none twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class OutcomeKind(Enum):
    """What can become of a request that was sent."""

    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"
    SILENT = "silent"


@dataclass(frozen=True)
class Outcome:
    """The end of one request; ``latency_s`` counts from the intended time of sending.

    ``status`` is the gRPC status of a refusal, ``route`` how an answered image was made.
    """

    kind: OutcomeKind
    latency_s: float
    status: str = ""
    detail: str = ""
    route: str = ""


@dataclass
class Ledger:
    """The books of one run. Ids that could not be sent for lack of room are counted apart, not dropped."""

    deadline_s: float
    sent: set[str] = field(default_factory=set)
    unsent: int = 0
    retried: int = 0
    answered_twice: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    planned: Counter[str] = field(default_factory=Counter)
    """Planned shares in force when each answer came, added up over the answers."""
    planned_answers: int = 0

    def send(self, request_id: str) -> None:
        """A request left."""
        if request_id in self.sent:
            raise ValueError(f"request {request_id} was sent before")
        self.sent.add(request_id)

    def settle(self, request_id: str, outcome: Outcome) -> None:
        """A request ended; a second answer to the same id is counted, and the first stands."""
        if request_id not in self.sent:
            raise ValueError(f"request {request_id} was never sent")
        if request_id in self.outcomes:
            self.answered_twice += outcome.kind is OutcomeKind.ANSWERED
            return
        self.outcomes[request_id] = outcome

    def plan_in_force(self, shares: dict[str, float]) -> None:
        """Note the planned shares that one answered request fell under."""
        self.planned.update(shares)
        self.planned_answers += 1

    def count(self, kind: OutcomeKind) -> int:
        return sum(outcome.kind is kind for outcome in self.outcomes.values())

    @property
    def in_flight(self) -> int:
        return len(self.sent) - len(self.outcomes)

    @property
    def balanced(self) -> bool:
        """Whether every request that was sent was answered, refused or lost with its connection, exactly once."""
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
        """Latencies of the answers, rising."""
        return sorted(o.latency_s for o in self.outcomes.values() if o.kind is OutcomeKind.ANSWERED)

    @property
    def planned_shares(self) -> dict[str, float]:
        """Mean planned share by route over the answers; empty where no plan was seen."""
        if not self.planned_answers:
            return {}
        return {route: total / self.planned_answers for route, total in self.planned.items()}

    @property
    def realised_shares(self) -> dict[str, float]:
        """Share of the answers by route; a degraded answer was planned to be escalated, and was served as light."""
        answers = sum(self.routes.values())
        if not answers:
            return {}
        shares = {route: self.routes[route] / answers for route in ("direct", "escalated", "light")}
        shares["light"] += self.routes["degraded"] / answers
        return shares

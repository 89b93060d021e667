"""The states of one request and the only ways between them.

received → direct or light → accepted, escalated or degraded → answered or refused. A request that ended stays ended:
exactly one of *answered* and *refused* is ever entered, and entered once.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(str, Enum):
    """Where a request is."""

    RECEIVED = "received"
    DIRECT = "direct"
    LIGHT = "light"
    ACCEPTED = "accepted"
    ESCALATED = "escalated"
    DEGRADED = "degraded"
    ANSWERED = "answered"
    REFUSED = "refused"


_NEXT: Final[dict[State, frozenset[State]]] = {
    State.RECEIVED: frozenset({State.DIRECT, State.LIGHT, State.DEGRADED, State.REFUSED}),
    # A direct prompt whose heavy pool turns out too slow may still be drawn by the light model.
    State.DIRECT: frozenset({State.DEGRADED, State.ANSWERED, State.REFUSED}),
    # A light pool whose replicas are gone leaves a prompt to the heavy model.
    State.LIGHT: frozenset({State.DIRECT, State.ACCEPTED, State.ESCALATED, State.DEGRADED, State.REFUSED}),
    State.ACCEPTED: frozenset({State.ANSWERED}),
    # An escalation that turns out too slow falls back to the light image at hand.
    State.ESCALATED: frozenset({State.DEGRADED, State.ANSWERED, State.REFUSED}),
    State.DEGRADED: frozenset({State.ANSWERED, State.REFUSED}),
    State.ANSWERED: frozenset(),
    State.REFUSED: frozenset(),
}


class IllegalMove(Exception):
    """The program tried to take a request where it cannot go."""


class Journey:
    """One request's states in order."""

    def __init__(self) -> None:
        self.states = [State.RECEIVED]

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def ended(self) -> bool:
        return not _NEXT[self.state]

    def go(self, state: State) -> None:
        """Enter a state; raises IllegalMove where the present one does not lead to it."""
        if state not in _NEXT[self.state]:
            raise IllegalMove(f"{self.state.value} does not lead to {state.value}")
        self.states.append(state)

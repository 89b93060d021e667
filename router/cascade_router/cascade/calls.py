"""The images of one call: they are admitted together or not at all, and from then on each one goes its own way.

A client that asks for four images wants to know at once if it gets none of them in time. So the machines of all four
hear `Arrived` and `Begun` together, before any of them enters a queue, and each reckons with those of its call that go
before it (``ahead`` of `RequestMachine`). If one is refused, the whole call is. Later a single image may fail, and the
others are not affected.
"""

from __future__ import annotations

from collections.abc import Sequence

from .decisions import Refuse
from .events import Arrived, Begun, Cancelled
from .machine import Effects, RequestMachine


def hear_together(machines: Sequence[RequestMachine], event: Arrived | Begun, now: float) -> list[Effects] | Refuse:
    """The effects for each image of a call, or why the call is refused; its machines have then ended."""
    heard = [machine.on(event, now) for machine in machines]
    refusal = next((effect for effects in heard for effect in effects if isinstance(effect, Refuse)), None)
    if refusal is None:
        return heard
    for machine in machines:
        machine.on(Cancelled(), now)
    return refusal

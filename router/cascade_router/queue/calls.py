"""Translates operations into calls of Lua scripts, and the scripts' replies and messages into outcomes.

The only I/O is reading the scripts' files. Every constant that the scripts share with Python is defined in Python and
put in front of each script (`shared_constants`).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Final

from cascade_api.bad_data import HASH_LIMIT
from cascade_api.names import IN_USE_FIELD, CascadeRef, grants_channel
from cascade_api.plan import GENERATION_AHEAD_S

from .. import lua
from . import dispatch
from .operations import (
    RANDOM,
    UNIT,
    DropCause,
    EnqueueTicket,
    Heartbeat,
    Operation,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    Restore,
    Sync,
    TicketDropped,
    TicketGranted,
    Verdict,
    Withdraw,
    pools_of,
)
from .work import BANDS, BANDS_TOLD, PoolLoad

Argument = str | int | float

NAMES: Final[dict[type[Operation], str]] = {
    Sync: "sync",
    EnqueueTicket: "enqueue",
    ReleaseCredit: "release",
    ReleaseAndEnqueue: "exchange",
    Withdraw: "withdraw",
    Heartbeat: "heartbeat",
    Restore: "restore",
    Reap: "reap",
}
LOCK: Final = "lock"
UNLOCK: Final = "unlock"
MEND: Final = "mend"
BAND_SPAN: Final = 2**42
"""A waiting entry's score in Redis is band · BAND_SPAN + deadline in milliseconds; below 2^53 it is exact."""
GENERATION_AHEAD_MS: Final = int(2 * GENERATION_AHEAD_S * 1000)
"""How far a plan's generation may be ahead of Redis's clock. It is twice what routers accept by their own clocks, since
these may differ from Redis's."""


def shared_constants(timing: QueueTiming) -> str:
    """Lua code that defines the constants that the queue's scripts share with Python; no script defines them itself."""
    return lua.constants(
        LEASE_MS=timing.lease_ms,
        DEAD_MS=timing.dead_ms,
        HOLD_MS=timing.hold_ms,
        KEEP_MS=timing.keep_ms,
        CHANNEL=grants_channel(""),
        IN_USE_FIELD=IN_USE_FIELD,
        HASH_LIMIT=HASH_LIMIT,
        GENERATION_AHEAD_MS=GENERATION_AHEAD_MS,
        BANDS=BANDS,
        BANDS_TOLD=BANDS_TOLD,
        BAND_SPAN=BAND_SPAN,
        SMOOTHING=dispatch.SMOOTHING,
        SHORTEST_SERVICE_S=dispatch.SHORTEST_SERVICE_S,
        UNKNOWN_SERVICE_S=dispatch.UNKNOWN_SERVICE_S,
        DRAW_START=dispatch.DRAW_START,
        DRAW_FACTOR=dispatch.DRAW_FACTOR,
        DRAW_MODULUS=dispatch.DRAW_MODULUS,
        RANDOM=RANDOM,
        UNIT=UNIT,
        VERDICT=Verdict,
        CAUSE=DropCause,
    )


@cache
def part(name: str) -> str:
    """The text of one of the files in ``scripts/``."""
    return (files(__package__) / "scripts" / f"{name}.lua").read_text()


class Script:
    """A script's source as Redis gets it, and the hash by which Redis knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()


def scripts(timing: QueueTiming, *, clock: str | None = None) -> dict[str, Script]:
    """All scripts by name; ``clock`` is the source of a Lua function ``now_ms`` that replaces the server's clock."""
    shared = f"{clock or part('clock')}\n{shared_constants(timing)}\n{part('pool')}\n"
    by_name = {name: Script(shared + part(name)) for name in (*NAMES.values(), MEND)}
    return {**by_name, LOCK: Script(part(LOCK)), UNLOCK: Script(part(UNLOCK))}


@dataclass(frozen=True)
class ScriptCall:
    """A script call: the arguments of EVALSHA."""

    script: str
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]


class Calls:
    """Makes the script calls of one cascade."""

    def __init__(self, ref: CascadeRef) -> None:
        self._ref = ref
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        """The keys by pools; there are no more entries than pools, and pairs of pools, in plans."""

    def of(self, operation: Operation) -> ScriptCall:
        """The call that carries out an operation."""
        pools = pools_of(operation)
        return ScriptCall(
            NAMES[type(operation)], self._keys_of(pools), (operation.router, *pools, *_own_arguments(operation))
        )

    def mend(self, pool: str, router: str) -> ScriptCall:
        """Remove from a pool's keys everything that is not this product's; see `mend.lua` for the reply."""
        return ScriptCall(MEND, self._keys_of((pool,)), (router, pool))

    def _keys_of(self, pools: tuple[str, ...]) -> tuple[str, ...]:
        keys = self._keys.get(pools)
        if keys is None:
            ref = self._ref
            of_each = ((ref.queue_key(pool), ref.credits_key(pool), ref.leases_key(pool)) for pool in pools)
            keys = self._keys[pools] = (ref.routers_key, *itertools.chain.from_iterable(of_each))
        return keys

    def lock(self, key: str, owner: str, ttl_ms: int) -> ScriptCall:
        """Take or renew the lock of an idempotency key; see `lock.lua` for the reply."""
        return ScriptCall(LOCK, (self._ref.request_key(key), self._ref.routers_key), (owner, ttl_ms))

    def unlock(self, key: str, owner: str) -> ScriptCall:
        """Delete the lock of an idempotency key if ``owner`` holds it."""
        return ScriptCall(UNLOCK, (self._ref.request_key(key),), (owner,))


def _own_arguments(operation: Operation) -> tuple[Argument, ...]:
    match operation:
        case Sync():
            replicas = [(r.id, r.endpoint, r.capacity, repr(r.service_s)) for r in operation.replicas]
            return (operation.generation, operation.spread, *(value for replica in replicas for value in replica))
        case EnqueueTicket():
            return operation.ticket, operation.band, operation.remaining_ms, operation.limit
        case ReleaseCredit():
            service = "" if operation.service_s is None else repr(operation.service_s)
            return operation.ticket, operation.replica_id, service, operation.sharing, int(operation.failed)
        case ReleaseAndEnqueue():
            return _own_arguments(operation.release) + _own_arguments(operation.enqueue)
        case Withdraw():
            return (operation.ticket,)
        case Heartbeat():
            return (len(operation.leases), *(v for lease in operation.leases for v in lease), *operation.waiting)
        case Restore():
            return tuple(value for lease in operation.leases for value in lease)
        case Reap():
            return ()


def outcome_of(reply: bytes | str) -> OperationResult:
    """The outcome that a script replied; raises ValueError for anything that is not such a reply."""
    # tickets and routers that somebody else put there may be no text
    text = reply if isinstance(reply, str) else reply.decode(errors="replace")
    # an empty Lua table arrives as an object, which iterates as an empty list does
    verdict, grants, drops, loads, missing, routers = json.loads(text)
    return OperationResult(
        verdict=Verdict(verdict),
        grants=tuple(TicketGranted(*grant) for grant in grants),
        drops=tuple(TicketDropped(pool, ticket, DropCause(cause)) for pool, ticket, cause in drops),
        loads={
            pool: PoolLoad(waiting=waiting, in_flight=in_flight, expected_wait_s=float(wait_s), ahead=tuple(ahead))
            for pool, waiting, in_flight, wait_s, ahead in loads
        },
        missing=tuple(missing),
        routers=tuple(sorted(routers)),
    )


def message_of(data: bytes | str, ref: CascadeRef) -> TicketGranted | TicketDropped | None:
    """The grant or drop in a message on a grants channel; None if it is another cascade's or not a valid message."""
    try:
        message = json.loads(data)
        if message["routers"] != ref.routers_key:
            return None
        if "cause" in message:
            return TicketDropped(message["pool"], message["ticket"], DropCause(message["cause"]))
        return TicketGranted(
            message["pool"], message["ticket"], message["replica"], message["endpoint"], int(message["sharing"])
        )
    except (ValueError, KeyError, TypeError):
        return None

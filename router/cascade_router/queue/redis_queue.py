"""The dispatcher that all routers share: operations as scripts in Redis, over one connection, in the order asked.

What is submitted while a batch is on its way travels together as the next one. Any failure (connection, time-out, an
error reply) loses everything outstanding and the connection; the owner opens it again. Scripts are loaded whenever the
connection opens, so a Redis that lost them shows as a failure and is mended by the next `open`.

A second connection hears what other routers' operations granted to this router's entries. It mends itself; what was
missed meanwhile is found by the next heartbeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import hiredis
import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from cascade_api.names import CascadeRef, grants_channel
from cascade_api.redis_refusals import why_refused

from .calls import Calls, ScriptCall, message_of, outcome_of, scripts
from .operations import Operation, OperationResult, QueueTiming, TicketDropped, TicketGranted

FAILURES: Final = (RedisError, OSError)
RESUBSCRIBE_S: Final = 0.2
END_AGAIN_S: Final = 0.1
BATCH: Final = 100
"""Commands that are sent together at most, lest a great many of them look like a Redis that does not answer."""

logger = structlog.get_logger(__name__)


class RedisAway(Exception):
    """Redis did not answer, or not as it should."""


@dataclass(frozen=True)
class Errand:
    """A command on its way to Redis, and what to do with its reply or its loss."""

    command: tuple[Any, ...]
    replied: Callable[[Any], None]
    lost: Callable[[str], None]


class RedisQueue:
    """Runs operations in Redis."""

    def __init__(
        self,
        *,
        url: str,
        ref: CascadeRef,
        router_id: str,
        timing: QueueTiming,
        timeout_s: float,
        on_message: Callable[[TicketGranted | TicketDropped], None],
        on_subscribed: Callable[[], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """``on_failure`` gets the reason before any caller hears `RedisAway`. No callback may wait."""
        self._client = Redis.from_url(
            url,
            socket_connect_timeout=timeout_s,
            socket_timeout=None,  # batches have a time limit of their own
            socket_keepalive=True,
            encoding_errors="replace",
            retry=Retry(NoBackoff(), 0),
        )
        self._ref = ref
        self._router_id = router_id
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_failure = on_failure
        self._calls = Calls(ref)
        self._scripts = scripts(timing)
        self._connection: AbstractConnection | None = None
        self._opened: tuple[str, str] | None = None
        """Number and address by which Redis knows the connection that was opened last."""
        self._pending: list[Errand] = []
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect anew and load the scripts; what was outstanding is lost. Raises `RedisAway`."""
        await self._stop()
        connection: AbstractConnection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._prepare(connection)
        except FAILURES as error:
            raise RedisAway(_reason(error)) from error
        else:
            self._connection = connection
        finally:
            if self._connection is None:
                await connection.disconnect(nowait=True)
        self._listening = asyncio.create_task(self._listen(), name="queue-grants")

    async def _prepare(self, connection: AbstractConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]
        if self._opened is not None:
            # What the last connection sent and Redis has not come to yet must not be carried out any more. A Redis that
            # was started since has given its number to somebody else, who comes from another address.
            number, address = self._opened
            with suppress(ResponseError):
                await _replies(connection, [("CLIENT", "KILL", "ID", number, "ADDR", address)])
        loads = [("SCRIPT", "LOAD", script.source) for script in self._scripts.values()]
        info, *_ = await _replies(connection, [("CLIENT", "INFO"), *loads])
        known = dict(part.partition("=")[::2] for part in info.decode().split())
        self._opened = known["id"], known["addr"]

    async def close(self) -> None:
        """Send what is outstanding, then close both connections."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=self._timeout_s)
        await self._stop()
        await self._client.aclose()

    def submit(self, operation: Operation, done: Callable[[OperationResult], None]) -> None:
        """Carry out an operation, in the order of submission; ``done`` is never called if Redis fails."""
        self._send_soon(
            Errand(self._command(self._calls.of(operation)), lambda reply: done(outcome_of(reply)), _ignore)
        )

    async def run(self, operation: Operation) -> OperationResult:
        """Carry out an operation and wait for it; raises `RedisAway`."""
        return outcome_of(await self._reply(self._command(self._calls.of(operation))))

    async def mend(self, pool: str) -> list[tuple[str, str]]:
        """Remove what is none of ours from a pool's keys; (key, what was wrong) for each. Raises `RedisAway`."""
        reply = await self._reply(self._command(self._calls.mend(pool, self._router_id)))
        texts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in reply]
        return list(zip(texts[::2], texts[1::2], strict=True))

    async def settle(self) -> None:
        """Wait until what was submitted so far is done; raises `RedisAway`."""
        await self._reply(("PING",))

    async def lock(self, key: str, ttl_ms: int) -> float | None:
        """Take the lock of an idempotency key for this router, or say how many seconds ago its holder was heard of.

        Raises `RedisAway`.
        """
        call = self._calls.lock(key, self._router_id, ttl_ms)
        silent_ms = await self._reply(self._command(call))
        return None if silent_ms is None else int(silent_ms) / 1000

    def relock(self, key: str, ttl_ms: int) -> None:
        """Renew the lock of a key, or take it again after Redis lost it, unless another was quicker."""
        self._send_soon(Errand(self._command(self._calls.lock(key, self._router_id, ttl_ms)), _ignore, _ignore))

    def unlock(self, key: str) -> None:
        """Give the lock of a key back, if this router holds it."""
        call = self._calls.unlock(key, self._router_id)
        self._send_soon(Errand(self._command(call), _ignore, _ignore))

    def _command(self, call: ScriptCall) -> tuple[Any, ...]:
        return ("EVALSHA", self._scripts[call.script].sha, len(call.keys), *call.keys, *call.arguments)

    async def _reply(self, command: tuple[Any, ...]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def replied(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        def lost(reason: str) -> None:
            if not future.done():
                future.set_exception(RedisAway(reason))

        self._send_soon(Errand(command, replied, lost))
        return await future

    def _send_soon(self, errand: Errand) -> None:
        if self._connection is None:
            errand.lost("not connected")
            return
        self._pending.append(errand)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(self._connection), name="queue-calls")

    async def _send(self, connection: AbstractConnection) -> None:
        batch: list[Errand] = []
        try:
            while self._pending:
                batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
                async with asyncio.timeout(self._timeout_s):
                    replies = await _replies(connection, [errand.command for errand in batch])
                for reply in replies:
                    batch.pop(0).replied(reply)
            self._sending = None
        except asyncio.CancelledError:
            _lose(batch, "closed")
            raise
        except Exception as error:  # also a reply that is not one of ours: whatever it is, this connection is done for
            lost, self._pending = batch + self._pending, []
            self._sending = self._connection = None
            self._on_failure(_reason(error))
            _lose(lost, _reason(error))
            await connection.disconnect(nowait=True)

    async def _stop(self) -> None:
        """End both connections; what is outstanding is lost."""
        await end(self._sending, self._listening)
        lost, self._pending = self._pending, []
        connection, self._connection = self._connection, None
        self._sending = self._listening = None
        _lose(lost, "closed")
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _listen(self) -> None:
        channel = grants_channel(self._router_id)
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(channel)
                    while True:
                        message = await pubsub.get_message(timeout=None)
                        if message is None:
                            continue
                        if message["type"] == "subscribe":
                            self._on_subscribed()
                        elif message["type"] == "message":
                            heard = message_of(message["data"], self._ref)
                            if heard is not None:
                                self._on_message(heard)
            except Exception as error:  # whatever it is, heartbeats do without until this is heard again
                logger.info("queue.grants_channel_lost", reason=_reason(error))
            await asyncio.sleep(RESUBSCRIBE_S)


async def end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel tasks until they have ended: a single cancellation can get lost in a wait that ends at that moment."""
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=END_AGAIN_S)


async def _replies(connection: AbstractConnection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send commands at once and read all replies; raises the first error reply."""
    await connection.send_packed_command(b"".join(map(hiredis.pack_command, commands)))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


def _lose(errands: Sequence[Errand], reason: str) -> None:
    for errand in errands:
        errand.lost(reason)


def _ignore(_: object) -> None:
    """Nothing to do."""


def _reason(error: BaseException) -> str:
    return why_refused(error) or f"{type(error).__name__}: {error}"

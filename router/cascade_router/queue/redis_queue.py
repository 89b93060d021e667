"""The dispatcher that all routers share: it runs operations as scripts in Redis, over one connection and in order.

Operations that are submitted while a batch is on its way are sent together as the next batch. After any failure (of the
connection, a time-out, an error reply) the connection is closed and everything outstanding is lost; the owner opens it
again. Scripts are loaded whenever the connection opens. So if Redis lost its scripts, the next call fails, and the next
`open` loads them again.

A second connection receives messages: the grants to this router's entries that follow from other routers' operations.
It reconnects by itself, and the next heartbeat finds the grants whose messages were missed.
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
"""Most commands in a batch: a larger one could take so long that Redis would seem not to answer."""

logger = structlog.get_logger(__name__)


class RedisAway(Exception):
    """Redis did not answer, or gave a wrong answer."""


@dataclass(frozen=True)
class Errand:
    """A command on its way to Redis, and the callbacks for its reply and for its loss (with the reason)."""

    command: tuple[Any, ...]
    replied: Callable[[Any], None]
    lost: Callable[[str], None]


class RedisQueue:
    """Runs the operations of one cascade and router in Redis."""

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
        """``on_failure`` is called with the reason before any caller gets `RedisAway`. No callback may wait."""
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
        """Redis's number and address of the connection that was opened last."""
        self._pending: list[Errand] = []
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open a new connection and load the scripts; outstanding operations are lost. Raises `RedisAway`."""
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
            # Redis must not carry out any more what the last connection sent. A Redis that was restarted may have given
            # the same number to another client, but that has another address.
            number, address = self._opened
            with suppress(ResponseError):
                await _replies(connection, [("CLIENT", "KILL", "ID", number, "ADDR", address)])
        loads = [("SCRIPT", "LOAD", script.source) for script in self._scripts.values()]
        info, *_ = await _replies(connection, [("CLIENT", "INFO"), *loads])
        known = dict(part.partition("=")[::2] for part in info.decode().split())
        self._opened = known["id"], known["addr"]

    async def close(self) -> None:
        """Send what is outstanding, and then close both connections."""
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
        """Remove data that is not this product's from a pool's keys.

        Returns (key, what was wrong) for each removal. Raises `RedisAway`.
        """
        reply = await self._reply(self._command(self._calls.mend(pool, self._router_id)))
        texts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in reply]
        return list(zip(texts[::2], texts[1::2], strict=True))

    async def settle(self) -> None:
        """Wait until everything that was submitted so far is done; raises `RedisAway`."""
        await self._reply(("PING",))

    async def lock(self, key: str, ttl_ms: int) -> float | None:
        """Take the lock of an idempotency key for this router.

        Returns None if it was taken, else how many seconds ago the router that holds it was last heard from. Raises
        `RedisAway`.
        """
        call = self._calls.lock(key, self._router_id, ttl_ms)
        silent_ms = await self._reply(self._command(call))
        return None if silent_ms is None else int(silent_ms) / 1000

    def relock(self, key: str, ttl_ms: int) -> None:
        """Renew the lock of a key, or take it again if Redis lost it and no other router has taken it since."""
        self._send_soon(Errand(self._command(self._calls.lock(key, self._router_id, ttl_ms)), _ignore, _ignore))

    def unlock(self, key: str) -> None:
        """Release the lock of a key, if this router holds it."""
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
        except Exception as error:  # also a reply that cannot be read: whatever it is, this connection is unusable
            lost, self._pending = batch + self._pending, []
            self._sending = self._connection = None
            self._on_failure(_reason(error))
            _lose(lost, _reason(error))
            await connection.disconnect(nowait=True)

    async def _stop(self) -> None:
        """Close both connections; outstanding operations are lost."""
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
            except Exception as error:  # whatever it is, heartbeats find the grants until the channel is back
                logger.info("queue.grants_channel_lost", reason=_reason(error))
            await asyncio.sleep(RESUBSCRIBE_S)


async def end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel tasks until they have ended: a task can lose a single cancellation if its wait ends at that moment."""
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=END_AGAIN_S)


async def _replies(connection: AbstractConnection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send all commands at once and read all replies; raises the first error reply."""
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
    """A callback that does nothing."""


def _reason(error: BaseException) -> str:
    return why_refused(error) or f"{type(error).__name__}: {error}"

"""Follows the plans of all cascades in Redis, and keeps the last ones while Redis is away.

A channel in Redis announces new plans, and all plans are also read once a second in case an announcement was missed. A
plan that is invalid, or that cannot serve while the last one can, does not replace it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from cascade_api.bad_data import HASH_LIMIT, TEXT_LIMIT, BadData
from cascade_api.names import CASCADE_INDEX, CascadeRef
from cascade_api.plan import Plan, is_credible
from cascade_api.reasons import Refusal
from cascade_api.redis_refusals import is_wrong_type, why_refused

from .requests import RequestRefused
from .runtime import CascadeRuntime

log = structlog.get_logger(__name__)

POLL_S: Final = 1.0
"""Seconds between two readings of all plans, in addition to the channel that announces changes."""
GONE_S: Final = 30.0
"""A cascade that is missing in Redis for this long is forgotten; before that, Redis may just have lost its data."""
_SHOWN: Final = 10


class Plans:
    """The cascades that this router serves, by reference.

    Args:
        make_runtime: starts the runtime of a cascade from its first plan.
        clock: monotonic seconds.
        unix_s: Unix time in seconds, which bounds the plans' generations.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        make_runtime: Callable[[CascadeRef, Plan], Awaitable[CascadeRuntime]],
        bad_data: BadData,
        clock: Callable[[], float],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._make_runtime = make_runtime
        self._bad_data = bad_data
        self._clock = clock
        self._unix_s = unix_s
        self._runtimes: dict[CascadeRef, CascadeRuntime] = {}
        self._planless: set[CascadeRef] = set()
        self._missing_since: dict[CascadeRef, float] = {}
        self._heard = False
        self._looked = asyncio.Event()
        self.away = False
        self._refusal: str | None = None
        """If Redis refused the last reading: what is wrong with the user in the URL."""

    @property
    def runtimes(self) -> Iterable[CascadeRuntime]:
        return self._runtimes.values()

    @property
    def by_name(self) -> dict[str, CascadeRuntime]:
        """The cascades by the names that clients use; with the namespace if several have the same name."""
        times = Counter(ref.name for ref in self._runtimes)
        return {
            ref.name if times[ref.name] == 1 else f"{ref.namespace}.{ref.name}": runtime
            for ref, runtime in self._runtimes.items()
        }

    def find(self, model: str) -> CascadeRuntime:
        """The cascade of a model name, which is its name or ``<namespace>.<name>``.

        Raises:
            RequestRefused: unknown, ambiguous, or not planned yet.
        """
        found = [ref for ref in self._runtimes if model in (ref.name, f"{ref.namespace}.{ref.name}")]
        if len(found) == 1:
            return self._runtimes[found[0]]
        if found:
            names = ", ".join(sorted(f"{ref.namespace}.{ref.name}" for ref in found))
            raise RequestRefused(
                Refusal.INVALID, f"model: {model!r} is in several namespaces; use one of {names}", field="model"
            )
        if any(model in (ref.name, f"{ref.namespace}.{ref.name}") for ref in self._planless) or not self._heard:
            raise RequestRefused(
                Refusal.NO_PLAN, "no plan has been published yet; try again in a moment", retry_after_s=1.0
            )
        known = sorted(ref.name for ref in self._runtimes)
        listed = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "") if known else "none yet"
        raise RequestRefused(
            Refusal.UNKNOWN_MODEL, f"model: {model[:80]!r} is not served here; there is: {listed}", field="model"
        )

    def why_not_ready(self) -> str | None:
        """Why no prompt can be served now; None if one can."""
        if not self._runtimes:
            return (self._refusal or "Redis cannot be reached") if self.away else "no plan has been published yet"
        problems = {}
        for runtime in self._runtimes.values():
            problems[runtime.name] = runtime.state.why_not_ready()
            if problems[runtime.name] is None:
                return None
        return "; ".join(f"{name}: {problem}" for name, problem in problems.items())

    def why_not_started(self) -> str | None:
        """Why this router does not know yet which cascades exist; None when it does, even if none exists.

        A Service should use this and not readiness: a parked cascade wakes only if its requests reach a router.
        """
        return None if self._heard or self._runtimes else "Redis has not told the plans yet"

    async def follow(self) -> None:
        """Run until cancelled."""
        wake = asyncio.Event()
        listener = asyncio.ensure_future(self._listen(wake))
        try:
            while True:
                wake.clear()
                await self.refresh()
                self._looked.set()
                try:
                    async with asyncio.timeout(POLL_S):
                        await wake.wait()
                except TimeoutError:
                    continue
        finally:
            listener.cancel()

    async def first_look(self, timeout_s: float) -> None:
        """Wait until Redis was asked for the plans once, even if it did not answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._looked.wait()

    async def refresh(self) -> None:
        """Read all plans once; if Redis is away, log that and keep the present plans."""
        try:
            refs = await self._index()
            documents = {ref: await self._document(ref) for ref in refs | set(self._runtimes)}
        except (RedisError, OSError) as error:
            known, self._refusal = self._refusal, why_refused(error)
            if not self.away or self._refusal != known:
                log.warning("Redis cannot be used; the last plan stays in force", why=self._refusal or str(error))
            self.away = True
            return
        if self.away:
            log.info("Redis is back")
        self.away, self._refusal = False, None
        self._planless = {ref for ref in refs if documents[ref] is None} - set(self._runtimes)
        for ref, document in documents.items():
            if document is not None:
                self._missing_since.pop(ref, None)
                await self._take(ref, document)
            elif ref in self._runtimes:
                await self._missed(ref)
        # Only now: until all plans are taken, a name that is not known yet may still be.
        self._heard = True

    async def close(self) -> None:
        for ref in list(self._runtimes):
            await self._runtimes.pop(ref).close()

    async def _index(self) -> set[CascadeRef]:
        """The cascades in the index of plans; those that are served now are read even if the index lacks them."""
        try:
            if await self._redis.scard(CASCADE_INDEX) > HASH_LIMIT:
                self._bad_data.found(CASCADE_INDEX, f"has more than {HASH_LIMIT} members")
                return set()
            return self._refs(await self._redis.smembers(CASCADE_INDEX))
        except ResponseError as error:
            if is_wrong_type(error):
                self._bad_data.found(CASCADE_INDEX, str(error))
                return set()
            raise

    async def _document(self, ref: CascadeRef) -> bytes | str | None:
        """The data at a plan's key, up to the length of the longest plan; empty if it is not text."""
        try:
            document: bytes | str = await self._redis.getrange(ref.plan_key, 0, TEXT_LIMIT)
        except ResponseError as error:
            if is_wrong_type(error):
                return b" "
            raise
        return document or None

    async def _take(self, ref: CascadeRef, document: bytes | str) -> None:
        runtime = self._runtimes.get(ref)
        try:
            plan = self._read(ref, document)
            if plan.why_unservable and runtime is not None and runtime.state.why_not_ready() is None:
                raise ValueError(f"it cannot serve, and the last one can: {plan.why_unservable}")
        except (ValidationError, ValueError) as error:
            problem = "; ".join(str(error).splitlines()[:2])
            self._bad_data.found(ref.plan_key, f"not a plan; the last one stays in force: {problem}")
            return
        self._bad_data.sound(ref.plan_key)
        if runtime is None:
            self._runtimes[ref] = await self._make_runtime(ref, plan)
            log.info("cascade found", cascade=str(ref), generation=plan.generation)
        elif plan.generation > runtime.plan.generation:
            log.info("plan changed", cascade=str(ref), generation=plan.generation, reason=str(plan.reason))
            await runtime.apply(plan)

    def _read(self, ref: CascadeRef, document: bytes | str) -> Plan:
        """The plan of a cascade; raises ValueError if the document is not a plan."""
        if len(document) > TEXT_LIMIT:
            raise ValueError(f"it is longer than {TEXT_LIMIT} bytes")
        plan = Plan.from_json(document)
        if plan.cascade != str(ref):
            raise ValueError(f"it is the plan of {plan.cascade[:200]!r}")
        if not is_credible(plan.generation, now_s=self._unix_s()):
            raise ValueError(f"its generation {plan.generation} is more than a day ahead of this machine's clock")
        return plan

    async def _missed(self, ref: CascadeRef) -> None:
        since = self._missing_since.setdefault(ref, self._clock())
        if self._clock() - since >= GONE_S:
            log.info("cascade gone", cascade=str(ref))
            del self._missing_since[ref]
            await self._runtimes.pop(ref).close()

    def _refs(self, members: Iterable[Any]) -> set[CascadeRef]:
        refs, strangers = set(), []
        for member in members:
            try:
                refs.add(CascadeRef.parse(member.decode() if isinstance(member, bytes) else str(member)))
            except ValueError:
                strangers.append(repr(member)[:80])
        if strangers:
            self._bad_data.found(CASCADE_INDEX, f"not a cascade: {', '.join(sorted(strangers)[:_SHOWN])}")
        else:
            self._bad_data.sound(CASCADE_INDEX)
        return refs

    async def _listen(self, wake: asyncio.Event) -> None:
        known: str | None = None
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.psubscribe("cascade:{*}:plan-changed")
                    while True:
                        heard = await channel.get_message(ignore_subscribe_messages=True, timeout=POLL_S)
                        if heard:
                            self._note_withdrawal(heard)
                            wake.set()
            except (RedisError, OSError) as error:
                refusal = why_refused(error)
                if refusal is not None and refusal != known:
                    log.warning("new plans are not announced here; the router looks for them each second", why=refusal)
                known = refusal
                await asyncio.sleep(POLL_S)

    def _note_withdrawal(self, heard: Mapping[str, Any]) -> None:
        """Note that a plan was withdrawn: it ends at once. A plan that is only missing may have been lost by Redis."""
        if heard["data"] not in (b"0", "0"):
            return
        for ref in self._runtimes:
            if heard["channel"] in (ref.plan_channel, ref.plan_channel.encode()):
                self._missing_since[ref] = -math.inf

"""Jobs in Redis: small scripts keep the states of each job consistent, even if routers die at any moment."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cascade_api.bad_data import BadData
from cascade_api.names import CascadeRef
from cascade_api.redis_refusals import is_wrong_type

from .. import lua
from .records import Claim, JobRecord, JobState, JobUnreadable, in_turn, read_job

LEASE_S: Final = 5.0
"""If a job's router is silent for this long, another router may take the job."""
MEMORY_SHARE: Final = 0.8
"""The part of Redis's memory that may be in use after a result is stored: queues and plans need the rest."""
_SCRIPTS: Final = {
    "submit": ("room", "submit"), "claim": ("claim",), "keep": ("keep",), "finish": ("room", "finish")
}  # fmt: skip
_T = TypeVar("_T")


class JobStoreAway(Exception):
    """Redis did not answer; nothing is known of the job."""


class Submitted(str, Enum):
    """The result of submitting a job."""

    NEW = "new"
    KNOWN = "known"
    DIFFERENT = "different"
    FULL = "full"
    """Too many jobs have not ended yet."""
    TENANT_FULL = "tenant-full"
    """Too many jobs of this tenant have not ended yet."""
    NO_MEMORY = "no-memory"
    """Redis has no memory left."""


class JobStore:
    """The jobs of every cascade; each method raises JobStoreAway.

    A job takes a place until it ends. From then on its result takes bytes, and the oldest results are removed to make
    room for new ones.

    Args:
        keep_s: how long a result is kept, unless it is removed to make room.
        limit: most jobs of one cascade that have not ended.
        bytes_limit: most bytes of the results of one cascade.
        tenant_share: the share of both limits that one tenant may use.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        keep_s: float,
        limit: int,
        bytes_limit: int,
        tenant_share: float,
        bad_data: BadData,
    ) -> None:
        self._redis = redis
        self._bad_data = bad_data
        self._keep_ms = int(keep_s * 1000)
        self._limits = limit, max(1, int(limit * tenant_share))
        self._bytes_limits = bytes_limit, int(bytes_limit * tenant_share)
        self._scripts = {name: redis.register_script(_source(*parts)) for name, parts in _SCRIPTS.items()}

    async def submit(
        self, ref: CascadeRef, job: str, *, digest: str, body: bytes, tenant: str, within_s: float
    ) -> tuple[Submitted, float]:
        """Store a job, wanted ``within_s`` seconds from now, unless its id is already known or there are too many.

        If there is no place, the second value says in how many seconds there should be one: when the next job ends, by
        the pace of earlier jobs, or at the first deadline.
        """
        arguments = (job, digest, body, tenant, int(within_s * 1000), self._keep_ms, *self._limits)
        try:
            submitted, place_ms = await self._run("submit", _all_keys(ref, job), arguments)
        except JobStoreAway as away:
            if not is_wrong_type(away.__cause__):
                raise
            await self._remove_wrong_types({ref.job_key(job): "hash"})
            submitted, place_ms = await self._run("submit", _all_keys(ref, job), arguments)
        return Submitted(_text(submitted)), float(place_ms) / 1000

    async def find(self, ref: CascadeRef, job: str) -> JobRecord | None:
        """A job, or None if there is none. Also raises JobUnreadable."""
        try:
            fields: Any = await _answered(self._redis.hgetall(ref.job_key(job)))
        except JobStoreAway as away:
            if is_wrong_type(away.__cause__):
                raise JobUnreadable(f"job {job}: {away}") from None
            raise
        return read_job(job, fields) if fields else None

    async def due(self, ref: CascadeRef, *, count: int) -> list[str]:
        """The ids of jobs that may be claimed: tenants take turns, and each tenant's oldest jobs come first."""
        seconds, micros = await _answered(self._redis.time())
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        try:
            found: Any = await _answered(self._redis.zrangebyscore(ref.jobs_key, "-inf", now_ms))
        except JobStoreAway as away:
            if not is_wrong_type(away.__cause__):
                raise
            await self._remove_wrong_types({ref.jobs_key: "zset"})
            return []
        due = []
        for job in found:
            try:
                due.append(_text(job))
            except UnicodeDecodeError:
                self._bad_data.found(ref.jobs_key, f"removed: not the id of a job: {repr(job)[:80]}")
                await _answered(self._redis.zrem(ref.jobs_key, job))
        if len(due) <= count:
            return due
        return in_turn(due, await self._tenants(ref))[:count]

    async def _tenants(self, ref: CascadeRef) -> dict[str, str]:
        """The tenant of each job that has not ended, by its id."""
        try:
            kept: Any = await _answered(self._redis.hgetall(ref.jobs_open_key))
            return {_text(job): _text(value).partition(" ")[2] for job, value in kept.items()}
        except JobStoreAway as away:
            if not is_wrong_type(away.__cause__):
                raise
            await self._remove_wrong_types({ref.jobs_open_key: "hash"})
        except UnicodeDecodeError:
            self._bad_data.found(ref.jobs_open_key, "whose jobs these are cannot be read; they are taken by age")
        return {}

    async def claim(self, ref: CascadeRef, job: str) -> Claim | None:
        """Take a job; None if another router was quicker."""
        keys = (ref.job_key(job), ref.jobs_key, ref.jobs_open_key)
        reply = await self._run("claim", keys, (job, int(LEASE_S * 1000)))
        if reply is None:
            return None
        token, body, left_ms = reply
        return Claim(id=job, token=int(token), body=body, left_s=float(left_ms) / 1000)

    async def renew(self, ref: CascadeRef, claim: Claim) -> bool:
        """Renew the lease of a job; False if the job no longer belongs to this attempt."""
        return await self._keep(ref, claim, JobState.RUNNING, LEASE_S)

    async def give_back(self, ref: CascadeRef, claim: Claim, *, after_s: float) -> bool:
        """Let any router try the job again; False if it no longer belonged to this attempt."""
        return await self._keep(ref, claim, JobState.QUEUED, after_s)

    async def finish(
        self, ref: CascadeRef, claim: Claim, state: JobState, result: bytes, *, image: bytes = b"", no_room: bytes = b""
    ) -> JobState | None:
        """End a job; None if it had already ended, or no longer belongs to this attempt.

        If there is no room for the image, the job fails, with ``no_room`` as its result.
        """
        free = await self._to_free(len(image)) if image else 0
        return await self._finish(ref, claim.id, str(claim.token), state, result, image, no_room, free=free)

    async def cancel(self, ref: CascadeRef, job: str) -> None:
        """End a job that has not ended; its router notices when it renews the lease."""
        await self._finish(ref, job, "", JobState.CANCELLED, b"", b"", b"")

    async def _to_free(self, size: int) -> int:
        """Bytes of results that must be removed before ``size`` more are stored, so that queues have enough memory."""
        try:
            memory: Any = await self._redis.info("memory")
        except (RedisError, OSError):
            return 0  # the command may be forbidden; if Redis is full, it refuses the write
        limit = int(memory.get("maxmemory", 0))
        return max(0, int(memory.get("used_memory", 0)) + size - int(limit * MEMORY_SHARE)) if limit else 0

    async def _keep(self, ref: CascadeRef, claim: Claim, state: JobState, free_after_s: float) -> bool:
        keys = (ref.job_key(claim.id), ref.jobs_key)
        return bool(await self._run("keep", keys, (claim.id, claim.token, state.value, int(free_after_s * 1000))))

    async def _finish(
        self, ref: CascadeRef, job: str, token: str, state: JobState, *results: bytes, free: int = 0
    ) -> JobState | None:
        *kept, no_room = results
        arguments = (job, token, state.value, *kept, self._keep_ms, *self._bytes_limits, free, no_room)
        reply = await self._run("finish", _all_keys(ref, job), arguments)
        return None if reply is None else JobState(_text(reply))

    async def _remove_wrong_types(self, types: Mapping[str, str]) -> None:
        """Remove keys whose type is not that of a job or of a list. Only routers write these keys."""
        for key, wanted in types.items():
            there = _text(await _answered(self._redis.type(key)))
            if there not in (wanted, "none"):
                self._bad_data.found(key, f"removed: a {there} where a {wanted} belongs")
                await _answered(self._redis.unlink(key))

    async def _run(self, script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Any:
        return await _answered(self._scripts[script](keys=keys, args=arguments))


async def _answered(reply: Awaitable[_T]) -> _T:
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise JobStoreAway(str(error)) from error


def _all_keys(ref: CascadeRef, job: str) -> tuple[str, ...]:
    return (
        ref.job_key(job), ref.jobs_key, ref.jobs_open_key, ref.job_results_key, ref.jobs_removed_key, ref.jobs_pace_key
    )  # fmt: skip


@cache
def _source(*names: str) -> str:
    shared = lua.constants(STATE=JobState, SUBMITTED=Submitted)
    return shared + "".join((files(__package__) / "scripts" / f"{name}.lua").read_text() for name in names)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

"""Jobs in Redis: small scripts that keep each job's life in order, whichever routers live or die meanwhile."""

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

from ..foreign import is_foreign
from .records import Claim, Job, JobState, JobUnreadable, read_job

LEASE_S: Final = 5.0
"""A job whose router is silent for so long is another router's to take."""
_T = TypeVar("_T")


class StoreAway(Exception):
    """Redis did not answer; nothing is known of the job."""


class Submitted(str, Enum):
    """What became of a job that was handed in."""

    NEW = "new"
    KNOWN = "known"
    DIFFERENT = "different"
    FULL = "full"


class JobStore:
    """The jobs of every cascade; each method raises StoreAway.

    Args:
        keep_s: how long a result is kept.
        limit: jobs of one cascade, results included.
    """

    def __init__(self, redis: Redis, *, keep_s: float, limit: int, bad_data: BadData) -> None:
        self._redis = redis
        self._bad_data = bad_data
        self._keep_ms = int(keep_s * 1000)
        self._limit = limit
        self._scripts = {name: redis.register_script(_source(name)) for name in ("submit", "claim", "keep", "finish")}

    async def submit(
        self, ref: CascadeRef, job: str, *, digest: str, body: bytes, tenant: str, deadline_s: float
    ) -> Submitted:
        """Keep a job unless its id is known already or there are too many."""
        keys = (ref.job_key(job), ref.jobs_key, ref.job_results_key)
        arguments = (job, digest, body, tenant, int(deadline_s * 1000), self._keep_ms, self._limit)
        try:
            return Submitted(_text(await self._run("submit", keys, arguments)))
        except StoreAway as away:
            if not is_foreign(away.__cause__):
                raise
        await self._drop_foreign(dict(zip(keys, ("hash", "zset", "zset"), strict=True)))
        return Submitted(_text(await self._run("submit", keys, arguments)))

    async def find(self, ref: CascadeRef, job: str) -> Job | None:
        """A job, or None where there is none. Raises JobUnreadable too."""
        try:
            fields: Any = await _answered(self._redis.hgetall(ref.job_key(job)))
        except StoreAway as away:
            if is_foreign(away.__cause__):
                raise JobUnreadable(f"job {job}: {away}") from None
            raise
        return read_job(job, fields) if fields else None

    async def due(self, ref: CascadeRef, *, count: int) -> list[str]:
        """Ids of jobs that may be claimed, the longest waiting first."""
        seconds, micros = await _answered(self._redis.time())
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        try:
            found: Any = await _answered(self._redis.zrangebyscore(ref.jobs_key, "-inf", now_ms, start=0, num=count))
        except StoreAway as away:
            if not is_foreign(away.__cause__):
                raise
            await self._drop_foreign({ref.jobs_key: "zset"})
            return []
        due = []
        for job in found:
            try:
                due.append(_text(job))
            except UnicodeDecodeError:
                self._bad_data.found(ref.jobs_key, f"removed: not the id of a job: {repr(job)[:80]}")
                await _answered(self._redis.zrem(ref.jobs_key, job))
        return due

    async def claim(self, ref: CascadeRef, job: str) -> Claim | None:
        """Take a job; None where another was quicker."""
        reply = await self._run("claim", (ref.job_key(job), ref.jobs_key), (job, int(LEASE_S * 1000)))
        if reply is None:
            return None
        token, body, left_ms = reply
        return Claim(id=job, token=int(token), body=body, left_s=float(left_ms) / 1000)

    async def renew(self, ref: CascadeRef, claim: Claim) -> bool:
        """Keep a job for another while; False where it is no longer this attempt's."""
        return await self._keep(ref, claim, JobState.RUNNING, LEASE_S)

    async def give_back(self, ref: CascadeRef, claim: Claim, *, after_s: float) -> bool:
        """Let any router try again; False where the job was no longer this attempt's."""
        return await self._keep(ref, claim, JobState.QUEUED, after_s)

    async def finish(self, ref: CascadeRef, claim: Claim, state: JobState, result: bytes) -> bool:
        """Give a job its end; False where it had one, or is no longer this attempt's."""
        return await self._finish(ref, claim.id, str(claim.token), state, result)

    async def cancel(self, ref: CascadeRef, job: str) -> bool:
        """End a job that has no end yet; its router hears of it when it renews."""
        return await self._finish(ref, job, "", JobState.CANCELLED, b"")

    async def _keep(self, ref: CascadeRef, claim: Claim, state: JobState, free_after_s: float) -> bool:
        keys = (ref.job_key(claim.id), ref.jobs_key)
        return bool(await self._run("keep", keys, (claim.id, claim.token, state.value, int(free_after_s * 1000))))

    async def _finish(self, ref: CascadeRef, job: str, token: str, state: JobState, result: bytes) -> bool:
        keys = (ref.job_key(job), ref.jobs_key, ref.job_results_key)
        return bool(await self._run("finish", keys, (job, token, state.value, result, self._keep_ms)))

    async def _drop_foreign(self, types: Mapping[str, str]) -> None:
        """Remove keys of another type than a job's, or a list's, has; routers alone write them."""
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
        raise StoreAway(str(error)) from error


@cache
def _source(name: str) -> str:
    return (files(__package__) / "scripts" / f"{name}.lua").read_text()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

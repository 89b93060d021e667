"""Results of jobs have limited room in a real Redis: whose results are removed, and what a full Redis does to a job."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from cascade_router.bad_data import bad_data
from cascade_router.jobs.records import Claim, JobRecord, JobState, in_turn
from cascade_router.jobs.store import JobStore, Submitted
from support.plans import REF
from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, make_plan
from support.sleepers import write_sleepers
from support.triton import TritonServer
from support.waiting import PATIENCE_S, eventually, wait_for

pytestmark = pytest.mark.contract

MIB = 2**20
IMAGE = random.Random(1).randbytes(3 * MIB)
NO_ROOM = json.dumps({"error": {"code": "StoreFull"}}).encode()
SIDE = 1024


@asynccontextmanager
async def job_store(server: RedisServer, **settings: Any) -> AsyncIterator[JobStore]:
    defaults = {"keep_s": 3600.0, "limit": 100, "bytes_limit": 64 * MIB, "tenant_share": 1.0, "bad_data": bad_data()}
    client = redis.asyncio.Redis.from_url(server.url)
    try:
        yield JobStore(client, **{**defaults, **settings})
    finally:
        await client.aclose()


async def hand_in(store: JobStore, job: str, *, tenant: str = "", within_s: float = 600) -> tuple[Submitted, float]:
    return await store.submit(REF, job, digest="d", body=b"{}", tenant=tenant, within_s=within_s)


async def claimed(store: JobStore, job: str, *, tenant: str = "") -> Claim:
    assert (await hand_in(store, job, tenant=tenant))[0] is Submitted.NEW
    claim = await store.claim(REF, job)
    assert claim is not None
    return claim


async def end(store: JobStore, claim: Claim, image: bytes = IMAGE) -> JobState | None:
    return await store.finish(REF, claim, JobState.SUCCEEDED, b'{"route": "light"}', image=image, no_room=NO_ROOM)


async def done(store: JobStore, job: str, *, tenant: str = "", image: bytes = IMAGE) -> JobState | None:
    return await end(store, await claimed(store, job, tenant=tenant), image)


async def found(store: JobStore, job: str) -> JobRecord:
    job_found = await store.find(REF, job)
    assert job_found is not None
    return job_found


async def kept(store: JobStore, jobs: list[str]) -> list[str]:
    return [job for job in jobs if (await found(store, job)).image == IMAGE]


def limit_memory(server: RedisServer, more: int) -> None:
    """Let the server take so many bytes more than it has taken."""
    with server.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + more)


async def test_the_oldest_results_make_room_and_say_so_and_what_is_under_way_stays(redis_server: RedisServer) -> None:
    async with job_store(redis_server, bytes_limit=10 * MIB) as store:
        running = await claimed(store, "running")
        await hand_in(store, "queued")
        jobs = [f"job{number}" for number in range(6)]
        assert [await done(store, job) for job in jobs] == [JobState.SUCCEEDED] * 6
        assert await kept(store, jobs) == jobs[-3:]
        gone = await found(store, jobs[0])
        assert (gone.state, gone.removed, gone.image, gone.outcome) == (JobState.SUCCEEDED, True, b"", {})
        assert (await found(store, "running")).state is JobState.RUNNING
        assert (await found(store, "queued")).state is JobState.QUEUED
        assert await end(store, running) is JobState.SUCCEEDED
        assert await end(store, running) is None
        # What was removed can be handed in again under the same id.
        assert await done(store, jobs[0]) is JobState.SUCCEEDED
        assert not (await found(store, jobs[0])).removed


async def test_a_result_that_is_larger_than_all_the_room_fails_its_job_and_removes_none(
    redis_server: RedisServer,
) -> None:
    async with job_store(redis_server, bytes_limit=10 * MIB) as store:
        await done(store, "small")
        assert await done(store, "large", image=bytes(11 * MIB)) is JobState.FAILED
        assert (await found(store, "large")).outcome == json.loads(NO_ROOM)
        assert await kept(store, ["small"]) == ["small"]


async def test_who_has_most_makes_room_and_nobody_has_more_than_a_share(redis_server: RedisServer) -> None:
    async with job_store(redis_server, bytes_limit=20 * MIB, tenant_share=0.5) as store:
        await done(store, "quiet", tenant="quiet")
        loud = [f"loud{number}" for number in range(8)]
        for job in loud:
            await done(store, job, tenant="loud")
        assert await kept(store, loud) == loud[-3:]
        third = [f"third{number}" for number in range(4)]
        for job in third:
            await done(store, job, tenant="third")
        assert await kept(store, ["quiet"]) == ["quiet"]
        assert len(await kept(store, loud + third)) == 5


async def test_places_are_for_jobs_without_an_end_and_one_tenant_has_a_share_of_them(
    redis_server: RedisServer,
) -> None:
    async with job_store(redis_server, limit=4, tenant_share=0.5) as store:
        for number in range(9):
            assert await done(store, f"done{number}", tenant="loud", image=b"small") is JobState.SUCCEEDED
        claims = [await claimed(store, f"loud{number}", tenant="loud") for number in range(2)]
        assert (await hand_in(store, "more", tenant="loud"))[0] is Submitted.TENANT_FULL
        assert (await hand_in(store, "quiet0", tenant="quiet"))[0] is Submitted.NEW
        assert (await hand_in(store, "quiet1", tenant="quiet"))[0] is Submitted.NEW
        assert (await hand_in(store, "third", tenant="third"))[0] is Submitted.FULL
        await end(store, claims[0], b"small")
        assert (await hand_in(store, "third", tenant="third"))[0] is Submitted.NEW
        await store.cancel(REF, "quiet0")
        assert (await hand_in(store, "more", tenant="loud"))[0] is Submitted.NEW


async def test_a_place_is_said_to_come_at_the_first_deadline_or_by_the_pace_of_the_ends(
    redis_server: RedisServer,
) -> None:
    async with job_store(redis_server, limit=2) as store:
        await hand_in(store, "long", within_s=3000)
        await hand_in(store, "short", within_s=2000)
        submitted, place_s = await hand_in(store, "more")
        assert submitted is Submitted.FULL
        assert 2000 - PATIENCE_S < place_s <= 2000
        await store.cancel(REF, "long")
        await hand_in(store, "longer", within_s=3000)
        with redis_server.client() as client:
            client.hset(REF.jobs_pace_key, mapping={"ended": int(client.time()[0]) * 1000, "interval": 500_000})
        _, place_s = await hand_in(store, "more")
        assert 500 <= place_s < 500 + PATIENCE_S


async def test_a_full_redis_takes_an_image_in_the_place_of_older_ones(mortal_redis: RedisServer) -> None:
    async with job_store(mortal_redis) as store:
        jobs = [f"job{number}" for number in range(4)]
        for job in jobs:
            await done(store, job)
        limit_memory(mortal_redis, -MIB)
        assert await done(store, "new") is JobState.SUCCEEDED
        assert (await kept(store, [*jobs, "new"]))[-1] == "new"
        assert (await found(store, jobs[0])).removed


async def test_queues_keep_their_part_of_the_memory(mortal_redis: RedisServer) -> None:
    limit_memory(mortal_redis, 30 * MIB)
    async with job_store(mortal_redis) as store:
        jobs = [f"job{number}" for number in range(20)]
        assert {await done(store, job) for job in jobs} == {JobState.SUCCEEDED}
        with mortal_redis.client() as client:
            memory = client.info("memory")
            assert memory["used_memory"] < 0.9 * memory["maxmemory"]
        assert len(await kept(store, jobs)) > 3


async def test_without_anything_to_remove_a_job_fails_once_and_for_all(mortal_redis: RedisServer) -> None:
    async with job_store(mortal_redis) as store:
        first = await claimed(store, "first")
        assert (await hand_in(store, "second"))[0] is Submitted.NEW
        assert (await hand_in(store, "third"))[0] is Submitted.NEW
        limit_memory(mortal_redis, -1000)
        assert (await hand_in(store, "fourth"))[0] is Submitted.NO_MEMORY
        assert await store.renew(REF, first)
        assert await end(store, first) is JobState.FAILED
        assert (await found(store, "first")).outcome == json.loads(NO_ROOM)
        second = await store.claim(REF, "second")
        assert second is not None
        assert await store.give_back(REF, second, after_s=0)
        await store.cancel(REF, "second")
        assert (await found(store, "second")).state is JobState.CANCELLED
        assert await store.due(REF, count=10) == ["third"]


async def test_a_job_has_one_end_whoever_gives_it_and_whatever_makes_room(redis_server: RedisServer) -> None:
    async with job_store(redis_server, bytes_limit=2 * MIB) as store:
        jobs = [f"job{number}" for number in range(24)]
        claims = [await claimed(store, job) for job in jobs]
        image = bytes(MIB // 2)
        ends = await asyncio.gather(
            *(end(store, claim, image) for claim in claims),
            *(store.cancel(REF, job) for job in jobs),
            *(end(store, claim, image) for claim in claims),
        )
        for index, job in enumerate(jobs):
            told = await found(store, job)
            given = [state for state in (ends[index], ends[48 + index]) if state is not None]
            assert told.state.final
            assert given == ([] if told.state is JobState.CANCELLED else [told.state])
        with redis_server.client() as client:
            assert client.zcard(REF.jobs_key) == client.hlen(REF.jobs_open_key) == 0
            assert int(client.hget(REF.job_results_key, "") or 0) <= 2 * MIB


async def test_expired_results_and_rubbish_in_the_books_take_no_room(redis_server: RedisServer) -> None:
    books = {
        "jobs": REF.jobs_key,
        "open": REF.jobs_open_key,
        "results": REF.job_results_key,
        "tenant": f"{REF.job_results_key}:",
        "removed": REF.jobs_removed_key,
        "pace": REF.jobs_pace_key,
    }
    async with job_store(redis_server, bytes_limit=5 * MIB, keep_s=0.05) as quick, job_store(redis_server) as store:
        await done(quick, "expires")
        await eventually(lambda: gone(quick, "expires"), what="it to expire")
        for name, key in books.items():
            with redis_server.client() as client:
                client.set(key, "written by somebody else")
            assert await done(store, name) is JobState.SUCCEEDED, name
        assert await done(quick, "last") is JobState.SUCCEEDED


async def gone(store: JobStore, job: str) -> bool:
    return await store.find(REF, job) is None


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_tenants_take_turns(tenants: list[str]) -> None:
    jobs = [f"{tenant}{index}" for index, tenant in enumerate(tenants)]
    ordered = in_turn(jobs, {job: job[0] for job in jobs})
    assert sorted(ordered) == sorted(jobs)
    for tenant in set(tenants):
        assert [job for job in ordered if job[0] == tenant] == [job for job in jobs if job[0] == tenant]
    for count in range(len(jobs) + 1):
        taken, all_of = Counter(job[0] for job in ordered[:count]), Counter(tenants)
        assert all(taken[one] >= min(all_of[one], max(taken.values()) - 1) for one in all_of if taken)


@pytest.fixture(scope="module")
def noise_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server whose images are noise of an ordinary size, about 3 MB each."""
    directory = tmp_path_factory.mktemp("noise")
    models = write_sleepers(directory / "models", dict.fromkeys(NOISE, 0.0), batch=1, instances=1, side=SIDE)
    server = TritonServer(models, directory, load=NOISE, replica_id="test-noise")
    try:
        yield server.start()
    finally:
        server.stop()


NOISE = ("shapes-light", "shapes-heavy")


def test_jobs_of_ordinary_size_in_a_small_redis_are_each_made_once(
    mortal_redis: RedisServer, noise_triton: TritonServer, start_router: StartRouter, tmp_path: Path
) -> None:
    router = start_noise_router(mortal_redis, noise_triton, start_router)
    limit_memory(mortal_redis, 24 * MIB)
    ends = [end_of(router, job) for job in [hand_in_at(router, seed) for seed in range(16)]]
    statuses = Counter(reply.status_code for reply in ends)
    assert set(statuses) == {200, 410}
    assert statuses[200] >= 2
    assert {reply.json()["error"]["code"] for reply in ends if reply.status_code == 410} == {"ResultRemoved"}
    assert images_made(router) == 16
    last = end_of(router, hand_in_at(router, 99)).json()
    assert (last["status"], len(last["result"]["b64_json"]) > 3 * MIB) == ("succeeded", True)


def test_a_redis_that_others_filled_fails_jobs_after_one_image(
    mortal_redis: RedisServer, noise_triton: TritonServer, start_router: StartRouter
) -> None:
    router = start_noise_router(mortal_redis, noise_triton, start_router)
    with mortal_redis.client() as client:
        client.set("others", bytes(20 * MIB))
    limit_memory(mortal_redis, 2 * MIB)
    ends = [end_of(router, job).json() for job in [hand_in_when_there_is_room(router, seed) for seed in range(2)]]
    assert [(told["status"], told["error"]["code"]) for told in ends] == [("failed", "StoreFull")] * 2
    assert images_made(router) == 2
    with mortal_redis.client() as client:
        client.config_set("maxmemory", 0)
    assert end_of(router, hand_in_at(router, 3)).json()["status"] == "succeeded"


def start_noise_router(server: RedisServer, triton: TritonServer, start: StartRouter) -> RouterProcess:
    replicas = {variant: [triton.endpoint] for variant in NOISE}
    plan = make_plan(replicas, direct=0, escalation=0, execution_s=dict.fromkeys(NOISE, 0.5), size=f"{SIDE}x{SIDE}")
    return start(server, plan)


def hand_in_at(router: RouterProcess, seed: int) -> str:
    reply = post_job(router, seed)
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def hand_in_when_there_is_room(router: RouterProcess, seed: int) -> str:
    """The image of another job, on its way into Redis, may take the last room for a moment."""

    def accepted() -> str | None:
        reply = post_job(router, seed)
        assert reply.status_code == 202 or reply.json()["error"]["code"] == "StoreFull", reply.text
        return str(reply.json()["id"]) if reply.status_code == 202 else None

    return wait_for(accepted, what="a job to be taken")


def post_job(router: RouterProcess, seed: int) -> httpx.Response:
    return httpx.post(f"{router.http_url}/v1/jobs", json={"prompt": "noise", "seed": seed}, timeout=PATIENCE_S)


def end_of(router: RouterProcess, job: str) -> httpx.Response:
    """What is told of a job that has an end."""

    def ended() -> httpx.Response | None:
        reply = httpx.get(f"{router.http_url}/v1/jobs/{job}", params={"wait": 5}, timeout=PATIENCE_S)
        return reply if reply.status_code == 410 or reply.json()["finished_at"] else None

    return wait_for(ended, what=f"job {job} to end")


def images_made(router: RouterProcess) -> float:
    lines = router.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("cascade_answers_total{"))

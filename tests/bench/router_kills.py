"""Two routers of which one is killed under load, again and again: who is answered, and how often."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx

from support.retrying import RetryingClient
from support.router import EASY, RouterProcess, make_plan

from .router_setup import HEAVY, LIGHT, Bench

SECONDS = {LIGHT: 0.02, HEAVY: 0.1}
RATE, REQUESTS, JOBS = 40.0, 160, 12
ENDS_WITHIN_S = 90.0


def kills(bench: Bench, *, times: int, seed: int = 0) -> None:
    """Kill and start again, so many times; each request is tried once more on the other router where it fails."""
    triton = bench.triton(SECONDS, name="kills", instances=4)
    replicas = {variant: [triton.endpoint] * 2 for variant in SECONDS}
    plan = make_plan(replicas, direct=0, escalation=0.25, execution_s=SECONDS, objectiveS=20)
    routers = [bench.router(plan), bench.router(plan)]
    rng = random.Random(seed)
    asyncio.run(_rounds(routers, times, rng))


async def _rounds(routers: list[RouterProcess], times: int, rng: random.Random) -> None:
    unanswered, twice, again, ends = 0, 0, 0, Counter[str]()
    for number in range(times):
        doomed = routers[number % 2]
        client = RetryingClient(routers)
        async with client, httpx.AsyncClient(timeout=60) as http:
            asking = asyncio.ensure_future(client.ask_evenly(REQUESTS, rate=RATE, run=f"k{number}"))
            jobs = [
                (await http.post(f"{routers[j % 2].http_url}/v1/jobs", json={"prompt": EASY})).json()
                for j in range(JOBS)
            ]
            await asyncio.sleep(rng.uniform(0.2, 0.8) * REQUESTS / RATE)
            assert doomed.process is not None
            doomed.process.kill()
            doomed.process.wait()
            await asking
            survivor = routers[1 - number % 2]
            ended = [asyncio.wait_for(_end_of(http, survivor, job["id"]), ENDS_WITHIN_S) for job in jobs]
            ends.update(await asyncio.gather(*ended))
        unanswered += len(client.unanswered) + REQUESTS - len(client.answers.keys() | client.unanswered.keys())
        twice += sum(count > 1 for count in client.answers.values())
        again += client.tried_again
        print(f"  kill {number + 1}: {client.tried_again} tried again, unanswered {client.unanswered}", flush=True)
        await asyncio.to_thread(lambda: doomed.start().wait_ready())  # noqa: B023
    print(f"{times} kills, {times * REQUESTS} requests, {again} tried again: {unanswered} unanswered, {twice} answered")
    print(f"  twice (targets 0 and 0); {times * JOBS} jobs: {dict(ends)}")


async def _end_of(http: httpx.AsyncClient, router: RouterProcess, job: str) -> str:
    """The end of a job, looked at twice."""
    url = f"{router.http_url}/v1/jobs/{job}"
    while not (told := (await http.get(url, params={"wait": 30})).json()).get("finished_at"):
        if "error" in told and "status" not in told:
            return "lost"
    await asyncio.sleep(1)
    same = (await http.get(url)).json()["finished_at"] == told["finished_at"]
    return str(told["status"]) if same else "ended twice"

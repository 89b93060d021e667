"""The router where there is too much to do, and where replicas are unequal."""

from __future__ import annotations

import asyncio
import statistics

from cascade_router.requests import BANDS
from support.retrying import message_of
from support.router import make_plan, publish

from .router_setup import HEAVY, LIGHT, Bench, at_rate, calls_to, in_turns

SECONDS = {LIGHT: 0.05, HEAVY: 0.1}
LIGHT_REPLICAS, HEAVY_REPLICAS = 3, 4
FACTORS = (0.8, 1.0, 1.5, 2.0, 5.0, 9.0)
OBJECTIVE_S = 1.0
LONG_S = 6.0
HEARS_S = 0.1


def overload(bench: Bench, *, seconds: float) -> None:
    """Goodput and time to a refusal from under the capacity to nine times as much."""
    triton = bench.triton(SECONDS, name="overload", batch=1, instances=4)
    replicas = {LIGHT: [triton.endpoint] * LIGHT_REPLICAS, HEAVY: [triton.endpoint] * HEAVY_REPLICAS}
    plan = make_plan(
        replicas, direct=0, escalation=0.2, batch=1, execution_s=SECONDS, objectiveS=OBJECTIVE_S, overload="strict"
    )
    router = bench.router(plan)
    capacity = LIGHT_REPLICAS / SECONDS[LIGHT]

    async def measured() -> None:
        goodput: dict[float, float] = {}
        async with calls_to(router.grpc) as call:
            await in_turns(call, message_of(), concurrency=3, requests=200)
            for factor in FACTORS:
                ended = await at_rate(call, message_of(), rate=factor * capacity, seconds=seconds)
                good = [each for each in ended if each.answered and each.seconds <= OBJECTIVE_S]
                late = sum(each.answered and each.seconds > OBJECTIVE_S for each in ended)
                refused = sorted(each.seconds for each in ended if not each.answered)
                goodput[factor] = len(good) / seconds
                line = f"  {factor:g} times the capacity: {goodput[factor]:.1f} good answers a second, {late} late"
                if refused:
                    slow = sum(each > HEARS_S for each in refused)
                    cuts = f"p50 {statistics.median(refused) * 1000:.1f}, worst {refused[-1] * 1000:.0f} ms"
                    line += f"; {len(refused)} refused, heard after {cuts}, {slow} after more than 100 ms"
                print(line, flush=True)
        best = max(goodput.values())
        print(f"overload: goodput at 5 times the capacity is {goodput[5.0] / best:.0%} of the best (target 90 %)")

    asyncio.run(measured())


def priorities(bench: Bench, *, seconds: float) -> None:
    """Nine times the capacity in three priorities, with a light image for a heavy one: who waits in vain."""
    triton = bench.triton(SECONDS, name="priorities", batch=1, instances=4)
    replicas = {LIGHT: [triton.endpoint] * LIGHT_REPLICAS, HEAVY: [triton.endpoint] * HEAVY_REPLICAS}
    plan = make_plan(
        replicas, direct=0.4, escalation=0.3, batch=1, execution_s=SECONDS, objectiveS=LONG_S, overload="degrade"
    )
    router = bench.router(plan)
    rate = 9 * LIGHT_REPLICAS / SECONDS[LIGHT] / len(BANDS)

    async def measured() -> None:
        async with calls_to(router.grpc) as call:
            await in_turns(call, message_of(), concurrency=3, requests=200)
            loads = (at_rate(call, message_of(priority=band), rate=rate, seconds=seconds) for band in BANDS)
            ended = dict(zip(BANDS, await asyncio.gather(*loads), strict=True))
        refused = sorted(each.seconds for part in ended.values() for each in part if not each.answered)
        answered = ", ".join(f"{sum(each.answered for each in part)} {band}" for band, part in ended.items())
        in_vain = sum(each > LONG_S / 2 for each in refused)
        p99 = statistics.quantiles(refused, n=100)[98]
        print(
            f"priorities, 9 times the capacity: answered {answered}; {len(refused)} refused, p99 {p99 * 1000:.0f} ms, "
            f"{in_vain} ({in_vain / len(refused):.1%}) after more than {LONG_S / 2:g} s (target 1 %)"
        )

    asyncio.run(measured())


def spreading(bench: Bench, *, runs: int, seconds: float) -> None:
    """p99 with two replicas of unequal speed: least expected wait against random spreading, paired runs."""
    fast = bench.triton({LIGHT: 0.02}, name="fast", batch=8, instances=1)
    slow = bench.triton({LIGHT: 0.2}, name="slow", batch=8, instances=1)
    options = {"direct": 0, "escalation": 0, "batch": 8, "execution_s": {LIGHT: 0.02}}
    plans = {
        how: make_plan({LIGHT: [fast.endpoint, slow.endpoint]}, name=how, dispatch=how, **options)
        for how in ("random", "least-wait")
    }
    publish(bench.redis, plans["random"])
    router = bench.router(plans["least-wait"])

    async def measured() -> None:
        ratios = []
        async with calls_to(router.grpc) as call:
            for run in range(runs):
                p99 = {}
                for how in plans:
                    message = message_of()
                    message.model_name = how
                    await in_turns(call, message, concurrency=4, requests=100)
                    ended = await at_rate(call, message, rate=60, seconds=seconds)
                    assert all(each.answered for each in ended)
                    p99[how] = statistics.quantiles([each.seconds for each in ended], n=100)[98]
                ratios.append(p99["least-wait"] / p99["random"])
                words = ", ".join(f"{how} p99 {value * 1000:.0f} ms" for how, value in p99.items())
                print(f"  run {run + 1}: {words}", flush=True)
        print(f"spreading, median of {runs} runs: {statistics.median(ratios):.2f} of random's p99 (target 0.5)")

    asyncio.run(measured())

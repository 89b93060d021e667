"""One request through the cascade, with replicas that fail, hang, lie or are not there."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest

from cascade_api.plan import Plan
from cascade_api.reasons import Refusal, Route
from cascade_router.cascade.choosing import Wish
from cascade_router.cascade.events import Arrived, Begun
from cascade_router.engine import Passage, hear
from cascade_router.probing import probe_due
from cascade_router.prompts.scorers import make_scorer
from cascade_router.requests import MadeImage, RequestRefused
from cascade_router.runtime import CascadeRuntime
from support.engine import admitted, ask, cascade, endpoints, replicas
from support.router import EASY, make_plan
from support.scripted_triton import Behaviour, answer, fail, hang, response
from support.triton import HEAVY, model_of
from support.waiting import PATIENCE_S, StoppedClock, eventually

UNAVAILABLE = fail(grpc.StatusCode.UNAVAILABLE)


def in_flight(runtime: CascadeRuntime) -> int:
    return sum(runtime.queue.load(pool.name).in_flight for pool in runtime.plan.pools)


@pytest.mark.parametrize(
    "bad",
    [
        UNAVAILABLE,
        fail(grpc.StatusCode.INTERNAL),
        fail(grpc.StatusCode.NOT_FOUND, "unknown model"),
        fail(grpc.StatusCode.CANCELLED),
        answer(pixels=b"too short"),
        answer(shape=(1, 12)),
        answer(confidence=None),
        answer(confidence=math.nan),
    ],
)
async def test_what_a_bad_replica_cannot_do_another_does(bad: Behaviour) -> None:
    async with replicas(bad, answer()) as (worse, better):
        # A replica of which so little is expected is not thought to hang, however late a busy machine lets it answer.
        slow = {"shapes-light": 10.0}
        plan = make_plan({"shapes-light": endpoints(worse, better)}, direct=0, escalation=0, execution_s=slow)
        async with cascade(plan) as runtime:
            made = await ask(runtime)
            assert (made.route, made.confidence) == (Route.LIGHT, pytest.approx(0.9))
            assert (len(worse.asked), len(better.asked)) == (1, 1)
            assert runtime.state.health.ejected == {"shapes-light-0"}
            for _ in range(3):
                await ask(runtime)
            assert len(worse.asked) == 1
            assert in_flight(runtime) == 0


async def test_an_ejected_replica_comes_back_by_a_probe_only() -> None:
    async with (
        replicas(UNAVAILABLE, answer()) as (bad, good),
        cascade(make_plan({"shapes-light": endpoints(bad, good)}, direct=0, escalation=0)) as runtime,
    ):
        await ask(runtime)
        bad.behaviour = answer(confidence=None)

        async def probed() -> bool:
            await probe_due(runtime)
            return not runtime.state.health.ejected

        await eventually(probed, what="the replica to be trusted again")


async def test_requests_wait_for_the_only_replica_to_come_back() -> None:
    async with (
        replicas(UNAVAILABLE) as (server,),
        cascade(make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0)) as runtime,
    ):
        asking = [asyncio.ensure_future(ask(runtime)) for _ in range(3)]
        await eventually(lambda: runtime.state.health.ejected, what="the replica to be ejected")
        server.behaviour = answer()

        async def answered() -> bool:
            await probe_due(runtime)
            return all(task.done() for task in asking)

        await eventually(answered, what="the answers")
        assert [task.result().route for task in asking] == [Route.LIGHT] * 3


async def test_a_prompt_that_the_model_rejects_is_the_clients_fault() -> None:
    rejects = fail(grpc.StatusCode.INVALID_ARGUMENT, "prompt: did not understand 'purple'")
    async with (
        replicas(rejects) as (server,),
        cascade(make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0)) as runtime,
    ):
        with pytest.raises(RequestRefused, match="did not understand 'purple'") as refused:
            await ask(runtime)
        assert (refused.value.reason, refused.value.field) == (Refusal.INVALID, "prompt")
        assert runtime.state.health.ejected == frozenset()
        assert in_flight(runtime) == 0


def adapted(plan: Plan, **adapters: dict[str, str]) -> Plan:
    """The plan with adapters by the last part of the variant's name."""
    variants = {
        name: variant.model_copy(update={"adapters": adapters.get(name.partition("-")[2], {})})
        for name, variant in plan.variants.items()
    }
    return plan.model_copy(update={"variants": variants})


async def test_each_model_is_asked_for_what_the_adapter_is_there_and_the_answer_names_it() -> None:
    asked: list[tuple[str, str]] = []

    async def noting(request: Any, context: Any) -> Any:
        asked.append((request.model_name, request.parameters["lora"].string_param))
        return response(confidence=0.1)

    async with replicas(noting) as (server,):
        plan = make_plan({name: endpoints(server) for name in ("shapes-light", "shapes-heavy")}, direct=0, escalation=1)
        async with cascade(adapted(plan, light={"ink": "1a"}, heavy={"ink": "2b", "oil": "3c"})) as runtime:
            made = await ask(runtime, wish=Wish(lora="ink"))
            assert (made.route, made.lora) == (Route.ESCALATED, "ink")
            assert asked == [(model_of("shapes-light"), "1a"), (model_of("shapes-heavy"), "2b")]
            made = await ask(runtime, wish=Wish(lora="oil"))
            assert (made.route, made.lora, asked[2:]) == (Route.DIRECT, "oil", [(HEAVY, "3c")])
            assert (await ask(runtime)).lora == ""


async def test_an_adapter_that_left_a_variant_meanwhile_is_a_refusal_and_no_image_without_it() -> None:
    async with replicas(answer()) as (server,):
        plan = make_plan({"shapes-light": endpoints(server)}, chain=["shapes-light"], direct=1, escalation=0)
        async with cascade(adapted(plan, light={"ink": "1a"})) as runtime:
            passage = Passage(admitted(runtime, wish=Wish(lora="ink")), coin=0.5)
            for event in (Arrived(in_hand=1), Begun()):
                hear([passage], event)
            await runtime.apply(plan.model_copy(update={"generation": plan.generation + 1}))
            with pytest.raises(RequestRefused, match="'ink' is not an adapter of shapes-light") as refused:
                await passage.answer()
            assert (refused.value.reason, refused.value.field) == (Refusal.INVALID, "lora")
            assert (server.asked, in_flight(runtime)) == ([], 0)


async def test_an_adapter_that_does_not_fit_is_refused_by_its_parameter_and_the_worker_stays_trusted() -> None:
    rejects = fail(grpc.StatusCode.INVALID_ARGUMENT, "lora: the adapter cannot be used: it does not fit")
    async with replicas(rejects) as (server,):
        plan = make_plan({"shapes-light": endpoints(server)}, chain=["shapes-light"], direct=1, escalation=0)
        async with cascade(adapted(plan, light={"ink": "1a"})) as runtime:
            with pytest.raises(RequestRefused, match="lora: the adapter cannot be used") as refused:
                await ask(runtime, wish=Wish(lora="ink"))
            assert (refused.value.reason, refused.value.field) == (Refusal.INVALID, "lora")
            assert runtime.state.health.ejected == frozenset()


async def test_what_hangs_on_one_replica_is_done_by_another_while_there_is_time() -> None:
    believed = {"shapes-light": 0.001}
    async with replicas(hang(), answer()) as (worse, better):
        plan = make_plan({"shapes-light": endpoints(worse, better)}, direct=0, escalation=0, execution_s=believed)
        async with cascade(plan) as runtime:
            made = await ask(runtime)
            assert made.route is Route.LIGHT
            assert made.latency_s > 1
            assert runtime.state.health.ejected == {"shapes-light-0"}
            assert in_flight(runtime) == 0


async def test_the_only_replica_does_again_what_it_never_answered_once_a_probe_shows_that_it_works() -> None:
    """As after the death of a model process: nobody answers for what it had in hand."""
    believed = {"shapes-light": 0.001}
    async with replicas(hang()) as (server,):
        plan = make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0, execution_s=believed)
        async with cascade(plan) as runtime:
            asking = asyncio.ensure_future(ask(runtime))
            await eventually(lambda: server.asked, what="the replica to be asked")
            server.behaviour = answer()
            await eventually(lambda: runtime.state.health.ejected, what="the replica to be ejected")

            async def probed() -> bool:
                await probe_due(runtime)
                return not runtime.state.health.ejected

            await eventually(probed, what="the replica to be trusted again")
            assert (await asking).route is Route.LIGHT
            assert in_flight(runtime) == 0


async def test_a_replica_that_hangs_is_given_up_at_the_deadline_and_probed() -> None:
    clock = StoppedClock()
    believed = {"shapes-light": 0.001, "shapes-heavy": 0.001}
    async with replicas(hang()) as (server,):
        plan = make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0, execution_s=believed)
        async with cascade(plan, clock=clock) as runtime:
            with pytest.raises(RequestRefused) as refused:
                await ask(runtime, within_s=0.1)
            assert refused.value.reason is Refusal.DEADLINE_EXCEEDED
            assert runtime.state.health.ejected == frozenset()  # too short a time to judge
            asking = asyncio.ensure_future(ask(runtime, within_s=0.1))
            await asyncio.sleep(0)
            assert in_flight(runtime) == 1
            clock.now += 2
            with pytest.raises(RequestRefused):
                await asking
            assert runtime.state.health.ejected == {"shapes-light-0"}
            await eventually(lambda: server.cancelled == len(server.asked), what="the hanging calls to be cancelled")
            assert in_flight(runtime) == 0


@pytest.mark.parametrize("heavy", [UNAVAILABLE, hang()])
@pytest.mark.parametrize("overload", ["degrade", "strict"])
async def test_a_heavy_stage_that_fails_is_degraded_or_refused(heavy: Behaviour, overload: str) -> None:
    clock = StoppedClock()
    limits: list[float] = []

    async def late(request: Any, context: Any) -> Any:
        clock.now += 59.5
        return response()

    async def limited(request: Any, context: Any) -> Any:
        limits.append(context.time_remaining())
        return await heavy(request, context)

    async with replicas(late, limited) as (light_server, heavy_server):
        servers = {"shapes-light": endpoints(light_server), "shapes-heavy": endpoints(heavy_server)}
        plan = make_plan(servers, direct=0, escalation=1, batch=1, overload=overload)
        async with cascade(plan, clock=clock) as runtime:
            if overload == "degrade":
                made = await ask(runtime, within_s=60)
                assert (made.route, made.variant) == (Route.DEGRADED, "shapes-light")
                assert all(limit < 0.255 for limit in limits)  # a quarter before the deadline; gRPC rounds up
            else:
                with pytest.raises(RequestRefused) as refused:
                    await ask(runtime, within_s=60)
                assert refused.value.reason in (Refusal.NO_REPLICA, Refusal.DEADLINE_EXCEEDED)
            assert in_flight(runtime) == 0


async def test_who_waits_in_vain_for_the_heavy_model_is_answered_with_the_light_image() -> None:
    clock = StoppedClock()

    async def late(request: Any, context: Any) -> Any:
        clock.now += 59.5
        return response()

    async with replicas(late, hang()) as (light, heavy):
        servers = {"shapes-light": endpoints(light), "shapes-heavy": endpoints(heavy)}
        async with cascade(make_plan(servers, direct=0, escalation=1, batch=1), clock=clock) as runtime:
            first = asyncio.ensure_future(ask(runtime, within_s=1000))
            await eventually(lambda: heavy.asked, what="the first to take the only credit")
            made = await ask(runtime, within_s=60)
            assert (made.route, made.variant) == (Route.DEGRADED, "shapes-light")
            assert heavy.asked == [HEAVY]
            first.cancel()
            await asyncio.wait([first])


async def test_a_direct_prompt_whose_heavy_replica_fails_is_drawn_by_the_light_one() -> None:
    async with replicas(answer(), UNAVAILABLE) as (light, heavy):
        servers = {"shapes-light": endpoints(light), "shapes-heavy": endpoints(heavy)}
        async with cascade(make_plan(servers, direct=1)) as runtime:
            made = await ask(runtime)
            assert (made.route, made.variant) == (Route.DEGRADED, "shapes-light")
            assert heavy.asked == [HEAVY]


@pytest.mark.parametrize(
    ("direct", "first", "other", "route"),
    [(0, "shapes-light", "shapes-heavy", Route.DIRECT), (1, "shapes-heavy", "shapes-light", Route.DEGRADED)],
)
async def test_who_waits_for_the_only_replica_goes_to_the_other_model_when_it_fails(
    direct: float, first: str, other: str, route: Route
) -> None:
    failing = asyncio.Event()

    async def fail_later(request: Any, context: Any) -> Any:
        await failing.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "scripted")

    async with replicas(fail_later, answer()) as (bad, good):
        servers = {first: endpoints(bad), other: endpoints(good)}
        plan = make_plan(servers, direct=direct, escalation=0, batch=1)
        async with cascade(plan) as runtime:
            asking = [asyncio.ensure_future(ask(runtime)) for _ in range(4)]
            await eventually(lambda: runtime.queue.load(f"{first}.cpu").waiting == 3, what="three to wait")
            failing.set()
            made = await asyncio.gather(*asking)
            assert [(image.route, image.variant) for image in made] == [(route, other)] * 4
            assert bad.asked == [model_of(first)]
            assert runtime.queue.load(f"{first}.cpu").waiting == 0
            assert in_flight(runtime) == 0


async def test_who_waits_for_the_light_model_goes_to_the_heavy_one_when_that_has_time() -> None:
    busy = asyncio.Event()

    async def answer_later(request: Any, context: Any) -> Any:
        await busy.wait()
        return response()

    async with replicas(UNAVAILABLE, answer_later) as (light, heavy):
        believed = {"shapes-light": 0.01, "shapes-heavy": 20.0}
        servers = {"shapes-light": endpoints(light), "shapes-heavy": endpoints(heavy)}
        plan = make_plan(servers, direct=0, escalation=0, batch=1, execution_s=believed)
        async with cascade(plan) as runtime:
            first = asyncio.ensure_future(ask(runtime, within_s=PATIENCE_S))
            await eventually(lambda: heavy.asked, what="the heavy model to be asked")
            second = asyncio.ensure_future(ask(runtime, within_s=25.0))
            await eventually(lambda: runtime.state.waiting == 1, what="the second to wait for either model")
            busy.set()
            assert [image.route for image in await asyncio.gather(first, second)] == [Route.DIRECT] * 2


async def test_the_confidence_is_asked_for_in_the_light_stage_only() -> None:
    wanted: list[list[str]] = []

    async def note(request: Any, context: Any) -> Any:
        wanted.append([output.name for output in request.outputs])
        return response(confidence=0.1 if len(wanted) == 1 else None)

    async with replicas(note) as (server,):
        servers = {"shapes-light": endpoints(server), "shapes-heavy": endpoints(server)}
        async with cascade(make_plan(servers, direct=0, escalation=1)) as runtime:
            made = await ask(runtime)
    assert (made.route, made.confidence) == (Route.ESCALATED, pytest.approx(0.1))
    told = ["batch_time", "prompt_tokens"]
    assert wanted == [["image", "confidence", *told], ["image", *told]]


@pytest.mark.parametrize(
    ("overload", "escalation", "shown", "image"),
    [("strict", 1, False, False), ("strict", 1, True, True), ("strict", 0.5, False, True), ("degrade", 1, False, True)],
)
async def test_a_light_image_that_nobody_will_see_is_not_asked_for(
    overload: str, escalation: float, shown: bool, image: bool
) -> None:
    wanted: list[set[str]] = []

    async def note(request: Any, context: Any) -> Any:
        wanted.append({output.name for output in request.outputs})
        return response(confidence=0.1)

    async with replicas(note) as (server,):
        servers = {"shapes-light": endpoints(server), "shapes-heavy": endpoints(server)}
        thresholds = {"hardness": 9.0, "confidence": 0.5}
        changes: dict[str, Any] = {"overload": overload, "seed_thresholds": thresholds}
        async with cascade(make_plan(servers, direct=0, escalation=escalation, **changes)) as runtime:
            previews: list[MadeImage] = []
            made = await ask(runtime, preview=previews.append if shown else None)
    assert (made.route, len(made.image.pixels)) == (Route.ESCALATED, 12)
    assert ["image" in outputs for outputs in wanted] == [image, True]
    assert [len(preview.image.pixels) for preview in previews] == [12] * shown


@pytest.mark.parametrize("overload", ["degrade", "strict"])
async def test_a_variant_alone_draws_every_prompt_unjudged_and_nothing_stands_in_for_it(overload: str) -> None:
    alone: dict[str, Any] = {"chain": ["shapes-light"], "direct": 1, "escalation": 0, "overload": overload}
    async with replicas(answer(confidence=None), answer()) as (server, other):
        servers = {"shapes-light": endpoints(server), "shapes-heavy": endpoints(other)}
        async with cascade(make_plan(servers, **alone)) as runtime:
            made = await ask(runtime)
            assert (made.route, made.variant, made.confidence) == (Route.DIRECT, "shapes-light", None)
        servers["shapes-light"] = []
        async with cascade(make_plan(servers, **alone)) as runtime:
            with pytest.raises(RequestRefused, match="no replica of the heavy model is ready"):
                await ask(runtime)
        assert other.asked == []


@pytest.mark.parametrize("stage", ["light", "escalated", "waiting"])
async def test_a_cancelled_request_leaves_nothing_behind(stage: str) -> None:
    async with replicas(hang() if stage == "light" else answer(), hang()) as (light, heavy):
        servers = {"shapes-light": endpoints(light), "shapes-heavy": endpoints(heavy)}
        async with cascade(make_plan(servers, direct=0, escalation=1, batch=1)) as runtime:
            if stage == "waiting":
                first = asyncio.ensure_future(ask(runtime))
                await eventually(lambda: heavy.asked, what="the first to take the only credit")
            asking = asyncio.ensure_future(ask(runtime))
            pool = f"shapes-{'light' if stage == 'light' else 'heavy'}.cpu"

            def under_way() -> bool:
                if stage == "waiting":
                    return runtime.queue.load(pool).waiting == 1
                return len((light if stage == "light" else heavy).asked) == 1

            await eventually(under_way, what="the request to be under way")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            if stage == "waiting":
                first.cancel()
                await asyncio.wait([first])
            assert in_flight(runtime) == 0
            assert runtime.queue.load(pool).waiting == 0
            await eventually(lambda: light.cancelled + heavy.cancelled == 1, what="the call to be cancelled")


async def test_without_any_replica_a_request_is_refused_at_once() -> None:
    async with cascade(make_plan({"shapes-light": [], "shapes-heavy": []})) as runtime:
        with pytest.raises(RequestRefused, match="no replica of the light model is ready") as refused:
            await ask(runtime)
        assert refused.value.reason is Refusal.NO_REPLICA


async def test_a_scorer_that_cannot_be_used_is_replaced_by_the_rules() -> None:
    async with replicas(answer()) as (server,):
        plan = make_plan(
            {"shapes-light": endpoints(server)}, direct=0, scorer={"name": "learned", "source": "/nowhere"}
        )
        async with cascade(plan) as runtime:
            assert (await ask(runtime)).hardness == pytest.approx(make_scorer("rules").score(EASY, draw=0.5))

"""What a moderation endpoint flags is not shown, and its failures open or close the service as the settings say."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings
from cascade_router.bucket import Bucket
from cascade_router.metrics import REGISTRY
from cascade_router.moderation import Moderator
from cascade_router.pools.clients import PIXELS, PNG_FILE, Prompt
from cascade_router.reporting import DemandCounter
from cascade_router.requests import GenerateRequest, MadeImage, Receipt, RequestRefused, new_id
from cascade_router.service import ImageService
from support.engine import cascade, endpoints, replicas
from support.one_cascade import OneCascade, open_to_all
from support.ports import free_port
from support.router import EASY, make_plan
from support.scripted_triton import PNG_BEGINS, Behaviour, answer
from support.waiting import PATIENCE_S, eventually


class Endpoint:
    """Flags prompts with a dragon, and images if ``flags_images``; fails as ``fails`` says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.flags_images = False
        self.fails = ""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1/moderations"
        app = Starlette(routes=[Route("/v1/moderations", self._moderate, methods=["POST"])])
        self.server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))

    async def _moderate(self, request: Request) -> Response:
        (content,) = (await request.json())["input"]
        self.asked.append(content)
        self.keys.add(request.headers.get("authorization", ""))
        if self.fails == "slow":
            await asyncio.sleep(PATIENCE_S)
        if self.fails:
            return Response(self.fails, 500 if self.fails == "error" else 200)
        flagged = "dragon" in content.get("text", "") or (self.flags_images and content["type"] == "image_url")
        return JSONResponse({"results": [{"flagged": flagged, "categories": {"violence": flagged, "hate": False}}]})


@contextlib.asynccontextmanager
async def serving(
    *, behaviour: Behaviour | None = None, **settings: Any
) -> AsyncIterator[tuple[ImageService, Endpoint]]:
    """A router's service that asks an endpoint; every image is escalated."""
    endpoint = Endpoint()
    task = asyncio.ensure_future(endpoint.server.serve())
    await eventually(lambda: endpoint.server.started, what="the endpoint to listen")
    configured = RouterSettings(moderation_url=endpoint.url, **{"moderation_timeout_s": PATIENCE_S, **settings})
    moderator = Moderator(configured)
    try:
        async with replicas(behaviour or answer()) as (server,):
            servers = {"shapes-light": endpoints(server), "shapes-heavy": endpoints(server)}
            async with cascade(make_plan(servers, direct=0, escalation=1)) as runtime:
                yield (
                    ImageService(
                        settings=configured,
                        plans=OneCascade(runtime),
                        rng=random.Random(0),
                        demand=DemandCounter(),
                        tenants=open_to_all(),
                        moderator=moderator,
                        bucket=Bucket(configured, clock=time.monotonic),
                        clock=time.monotonic,
                    ),
                    endpoint,
                )
    finally:
        await moderator.close()
        endpoint.server.should_exit = endpoint.server.force_exit = True
        await task


async def ask(service: ImageService, text: str = EASY, **changes: Any) -> MadeImage:
    receipt = Receipt(at=time.monotonic())
    fields = {"id": new_id(), "model": "shapes", "prompt": Prompt(text), "form": PNG_FILE, "receipt": receipt}
    previews = changes.pop("previews", [])
    request = GenerateRequest(**{**fields, **changes})
    with await service.generate([request], protocol="grpc", preview=previews.append) as delivery:
        (made,) = delivery.pack(list)
    assert isinstance(made, MadeImage)
    return made


async def refusal_of(service: ImageService, *arguments: Any, **changes: Any) -> Refusal:
    with pytest.raises(RequestRefused) as refused:
        await ask(service, *arguments, **changes)
    return refused.value.reason


async def test_prompts_and_final_images_are_asked_about_and_previews_are_not_shown() -> None:
    async with serving(moderation_key="secret") as (service, endpoint):
        previews: list[MadeImage] = []
        await ask(service, previews=previews)
        text, image = endpoint.asked
        assert text == {"type": "text", "text": EASY}
        assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG_BEGINS).decode()}"
        assert (endpoint.keys, previews) == ({"Bearer secret"}, [])


async def test_what_is_flagged_is_refused_and_nobody_is_to_blame_here() -> None:
    async with serving() as (service, endpoint):
        with pytest.raises(RequestRefused, match="prompt: it is not allowed here \\(violence\\)"):
            await ask(service, "a red dragon")
        assert len(endpoint.asked) == 1
        endpoint.flags_images = True
        assert await refusal_of(service) is Refusal.NOT_ALLOWED
        (runtime,) = service.plans.by_name.values()
        assert (runtime.tally.refusals, runtime.tally.violations) == ({Refusal.NOT_ALLOWED: 2}, 0)


async def test_who_wants_pixels_has_its_image_checked_as_a_file() -> None:
    jpeg = b"\xff\xd8\xff"
    behaviour = answer(encoded=struct.pack("<I", len(jpeg)) + jpeg)
    async with serving(moderation_of=["images"], behaviour=behaviour) as (service, endpoint):
        assert len((await ask(service, form=PIXELS)).image.pixels) == 12
        assert endpoint.asked[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
        endpoint.flags_images = True
        assert await refusal_of(service, form=PIXELS) is Refusal.NOT_ALLOWED


@pytest.mark.parametrize("fails", ["error", "no json", "slow"])
async def test_a_failure_opens_or_closes_as_the_setting_says(fails: str) -> None:
    short = {"moderation_timeout_s": 0.2} if fails == "slow" else {}
    async with serving(moderation_failure="open", **short) as (service, endpoint):
        endpoint.fails = fails
        await ask(service)
    async with serving(moderation_failure="closed", **short) as (service, endpoint):
        endpoint.fails = fails
        assert await refusal_of(service) is Refusal.MODERATION_AWAY
    assert REGISTRY.get_sample_value("cascade_moderations_total", {"what": "prompt", "outcome": "failed"})


async def test_only_what_the_settings_name_is_asked_about() -> None:
    async with serving(moderation_of=["prompts"]) as (service, endpoint):
        previews: list[MadeImage] = []
        await ask(service, previews=previews)
        assert [content["type"] for content in endpoint.asked] == ["text"]
        assert len(previews) == 1

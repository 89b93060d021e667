"""Prompts in, images out: every route and every protocol, with a real Redis and a real Triton."""

from __future__ import annotations

import pytest

from support.redis import RedisServer
from support.router import EASY, HARD, StartRouter, make_plan
from support.triton import TritonServer

pytestmark = pytest.mark.contract


def test_an_easy_prompt_is_light_and_a_hard_one_direct(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    endpoints = {"shapes-light": [shared_triton.endpoint], "shapes-heavy": [shared_triton.endpoint]}
    router = start_router(redis_server, make_plan(endpoints, seed_thresholds={"hardness": 2.0, "confidence": 0.01}))
    light, direct = router.ask(EASY), router.ask(HARD)
    assert (light.route, light.variant) == ("light", "shapes-light")
    assert (direct.route, direct.variant) == ("direct", "shapes-heavy")
    assert light.image.shape == direct.image.shape == (32, 32, 3)
    assert light.hardness < direct.hardness
    assert 0 <= light.confidence <= 1
    assert direct.confidence != direct.confidence

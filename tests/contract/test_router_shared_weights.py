"""Two variants of the same weights on one worker: one Triton model, and each prompt drawn with its variant's steps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support.redis import RedisServer
from support.router import EASY, HARD, Made, StartRouter, make_plan, on_hold, weights_of
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract

CHAIN = ("shapes-heavy", "shapes-slow")
CREDITS = 4


def test_a_worker_serves_two_variants_of_the_weights_that_it_hosts_in_one_batch(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    assert weights_of("shapes-heavy") == weights_of("shapes-slow")
    worker = {
        "id": "both",
        "endpoint": shared_triton.endpoint,
        "class": "cpu",
        "state": "ready",
        "hosts": [weights_of("shapes-heavy")],
        "credits": dict.fromkeys(CHAIN, CREDITS),
    }
    plan = make_plan(
        dict.fromkeys(CHAIN, ()),
        chain=CHAIN,
        direct=0.4,
        escalation=0,
        overload="strict",
        seed_thresholds={"hardness": 2.0, "confidence": 0.0},
        workers=[worker],
    )
    router = start_router(redis_server, plan)
    router.ask(EASY)  # it is connected from now on
    asked = [(prompt, seed) for seed, prompt in enumerate([EASY, EASY, HARD, EASY, HARD, EASY])]

    def sizes() -> dict[int, int]:
        return {e.batch_size: e.compute_infer.count for e in shared_triton.statistics("shapes-heavy").batch_stats}

    def in_one_batch() -> list[Made] | None:
        """The answers where more requests were made together than one variant has credits."""
        before = sizes()
        with ThreadPoolExecutor(len(asked)) as pool, on_hold(shared_triton):
            answers = [pool.submit(router.ask, prompt, seed=seed) for prompt, seed in asked]
            queued = f"cascade_requests_in_hand {len(asked)}.0"
            wait_for(lambda: queued in router.get("/metrics").text, what="all to be with the router")
        made = [answer.result() for answer in answers]
        together = any(count > before.get(size, 0) for size, count in sizes().items() if size > CREDITS)
        return made if together and {each.variant for each in made} == set(CHAIN) else None

    # Triton may take the first for a batch before the others have come.
    for (prompt, seed), made in zip(asked, wait_for(in_one_batch, what="a batch of both variants"), strict=True):
        alone = shared_triton.ask(made.variant, [prompt], seeds=[seed]).as_numpy("image")[0]
        assert np.abs(made.image.astype(int) - alone).max() <= 1, made.variant

"""The generator sends requests when they arrive, not when others are answered, and reports those it did not send."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np

from cascade_profiler.load.client import ConnectionLost, NoAnswer, RefusedByService, Reply
from cascade_profiler.load.generator import Generator, Load
from cascade_profiler.load.ledger import Ledger, OutcomeKind
from support.waiting import PATIENCE_S, eventually

IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)

DEFAULT_SIZE = itertools.repeat("")


class Service:
    """Answers as the script says: one entry for each call, by order; then always."""

    def __init__(self, *script: Exception | str, wait: asyncio.Event | None = None) -> None:
        self.script = list(script)
        self.wait = wait
        self.calls: list[tuple[str, bool]] = []
        self.asked_s: list[float] = []
        self.at_once = 0

    async def ask(self, request_id: str, prompt: str, *, size: str = "", again: bool = False) -> Reply:
        self.calls.append((request_id, again))
        self.asked_s.append(asyncio.get_running_loop().time())
        step = self.script.pop(0) if self.script else "light"
        self.at_once += 1
        if self.wait is not None:
            await self.wait.wait()
        self.at_once -= 1
        if isinstance(step, Exception):
            raise step
        return Reply(request_id, step, IMAGE)


async def run(
    service: Service,
    count: int,
    *,
    cap: int = 1000,
    retry: bool = False,
    ledger: Ledger | None = None,
) -> Ledger:
    """Send ``count`` requests that arrive at once."""
    ledger = ledger or Ledger(deadline_s=2.0)

    async def no_plan() -> None:
        return None

    await Generator(
        Load(
            arrivals=iter([0.0] * count),
            prompts=itertools.repeat("a cat"),
            sizes=itertools.repeat(""),
            max_in_flight=cap,
            retry_lost=retry,
        ),
        service=service,
        ledger=ledger,
        current_plan=no_plan,
        answered=lambda prompt, reply: None,
        progress=lambda elapsed_s: None,
    ).run()
    return ledger


async def test_arrivals_do_not_wait_for_answers() -> None:
    answer, clock = asyncio.Event(), asyncio.get_running_loop().time
    service = Service(wait=answer)
    running = asyncio.create_task(run(service, 20))
    await eventually(lambda: service.at_once == 20, what="all to be under way")
    waited_s = clock() - service.asked_s[0]
    answer.set()
    ledger = await running
    assert ledger.count(OutcomeKind.ANSWERED) == 20
    assert ledger.latencies_s[-1] >= waited_s > 0


async def test_what_exceeds_the_bound_in_flight_is_counted_and_not_sent() -> None:
    answer = asyncio.Event()
    service, ledger = Service(wait=answer), Ledger(deadline_s=2.0)
    running = asyncio.create_task(run(service, 20, cap=8, ledger=ledger))
    await eventually(lambda: ledger.unsent == 12, what="the last to arrive")
    answer.set()
    await running
    assert len(service.calls) == len(ledger.sent) == 8
    assert ledger.unsent == 12
    assert ledger.balanced


async def test_every_kind_of_end_is_told_apart() -> None:
    service = Service(
        "direct", RefusedByService("RESOURCE_EXHAUSTED", "queue full"), ConnectionLost("reset"), NoAnswer("late")
    )
    ledger = await run(service, 4)
    ends = {kind: ledger.count(kind) for kind in OutcomeKind}
    assert ends == {OutcomeKind.ANSWERED: 1, OutcomeKind.REFUSED: 1, OutcomeKind.LOST: 1, OutcomeKind.SILENT: 1}
    assert ledger.refusals == {"RESOURCE_EXHAUSTED": 1}
    assert not ledger.balanced


async def test_a_lost_request_is_sent_again_once_with_its_id() -> None:
    service = Service(ConnectionLost("reset"), "light")
    ledger = await run(service, 1, retry=True)
    [(first, again_first), (second, again_second)] = service.calls
    assert (first, again_first, again_second) == (second, False, True)
    assert ledger.retried == 1
    assert ledger.count(OutcomeKind.ANSWERED) == 1
    assert ledger.balanced


async def test_a_request_that_is_lost_twice_stays_lost() -> None:
    service = Service(ConnectionLost("reset"), ConnectionLost("reset"))
    ledger = await run(service, 1, retry=True)
    assert len(service.calls) == 2
    assert ledger.count(OutcomeKind.LOST) == 1
    assert ledger.balanced


async def test_a_stopped_run_waits_for_what_is_in_flight() -> None:
    ledger = Ledger(deadline_s=2.0)
    service = Service()

    async def no_plan() -> None:
        return None

    generator = Generator(
        Load(
            arrivals=iter([0.0, 0.0, 3600.0]),
            prompts=itertools.repeat("a cat"),
            sizes=itertools.repeat(""),
            max_in_flight=9,
            retry_lost=False,
        ),
        service=service,
        ledger=ledger,
        current_plan=no_plan,
        answered=lambda prompt, reply: generator.stop(),
        progress=lambda elapsed_s: None,
    )
    await asyncio.wait_for(generator.run(), PATIENCE_S)
    assert ledger.count(OutcomeKind.ANSWERED) == 2
    assert ledger.balanced


async def test_an_answer_to_another_request_is_no_answer() -> None:
    class Confused(Service):
        async def ask(self, request_id: str, prompt: str, *, size: str = "", again: bool = False) -> Reply:
            return Reply("somebody-else", "light", IMAGE)

    ledger = await run(Confused(), 1)
    assert ledger.count(OutcomeKind.SILENT) == 1
    assert not ledger.balanced

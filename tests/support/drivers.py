"""One script for both drivers of the request machine: what replicas, plans and clients do, and when.

`in_router` plays it with the router's asyncio driver, on a real queue in memory and an event loop whose clock jumps;
`in_simulator` with the simulator's event driver. Both give what every machine heard and what it asked for then.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import re
import selectors
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import zip_longest
from typing import Any, Final

from cascade_api.plan import Plan
from cascade_api.report import BatchTime
from cascade_profiler.simulate.events import Events
from cascade_profiler.simulate.passages import Passages
from cascade_profiler.simulate.shared_workers import SharedFleet, SharedWorker
from cascade_profiler.simulate.turns import Turns
from cascade_profiler.simulate.workers import WorkerJob
from cascade_router.cascade.effects import Effect
from cascade_router.cascade.events import Arrived, Begun, Event
from cascade_router.cascade.machine import Effects, RequestMachine
from cascade_router.cascade.state import Limits
from cascade_router.engine import Passage, hear
from cascade_router.pools.clients import Prompt, ReplicaFailed, ReplicaTimedOut, TritonImage
from cascade_router.probing import probe_due
from cascade_router.prompts.scorers import make_scorer
from cascade_router.queue import WorkQueue
from cascade_router.requests import RequestRefused
from cascade_router.runtime import CascadeRuntime

from .engine import admitted

COIN: Final = 0.5
SHORTEST_S = 1e-6
GONE: Final = "the worker is gone"
END_S: Final = 60.0
"""By then every request of a script has ended."""


@dataclass(frozen=True)
class Ask:
    """A client's request at a time, for one image or several; a light one of its prompt would get this confidence."""

    at_s: float
    text: str
    confidence: float
    images: int = 1


@dataclass(frozen=True)
class Call:
    """What a replica does with a request: it makes the image or fails after a time; if that is endless, it hangs."""

    seconds: float
    makes: bool


@dataclass(frozen=True)
class Script:
    """What happens. A replica goes through its calls in turn, and then begins again; probes of all replicas succeed."""

    plans: Sequence[tuple[float, Plan]]
    """When they come; the first is there at time zero."""
    asks: Sequence[Ask]
    """All texts differ."""
    calls: Mapping[str, Sequence[Call]]
    """By replica id."""
    probes: Sequence[float]
    limits: Limits


Line = tuple[float, Event, Sequence[Effect]]
Trace = dict[str, list[Line]]
"""For each image, by its text and place: the events of its machine with their times, and the effects."""


@contextlib.contextmanager
def _recorded() -> Iterator[Trace]:
    trace: Trace = defaultdict(list)
    original = RequestMachine.on

    def on(machine: RequestMachine, event: Event, now: float) -> Effects:
        effects = original(machine, event, now)
        trace[f"{machine._text} #{machine._ahead}"].append((now, event, tuple(effects)))
        return effects

    RequestMachine.on = on  # type: ignore[method-assign]
    try:
        yield trace
    finally:
        RequestMachine.on = original  # type: ignore[method-assign]


class _Calls:
    """Which call comes next on each replica."""

    def __init__(self, calls: Mapping[str, Sequence[Call]]) -> None:
        self._calls = calls
        self._asked: Counter[str] = Counter()

    def next(self, replica_id: str) -> Call:
        calls = self._calls[replica_id]
        self._asked[replica_id] += 1
        return calls[(self._asked[replica_id] - 1) % len(calls)]


# --- the simulator


class _ScriptedFleet(SharedFleet):
    """Workers that are always ready, and work on everything at once as the script says."""

    def __init__(self, clock: Events, script: Script) -> None:
        workers = [SharedWorker(replica_id, "cpu") for replica_id in script.calls]
        variants = [worker.id.rpartition("-")[0] for worker in workers]
        super().__init__(
            clock,
            workers,
            weights={variant: variant for variant in variants},
            turns=Turns.SHORT_FIRST,
            batch_s=lambda *_: 0.0,
            image_s=lambda *_: 0.0,
            largest=lambda *_: 1,
            done=lambda *_: None,
            loaded=lambda _: None,
        )
        for worker, variant in zip(workers, variants, strict=True):
            self.load(worker, variant, 0.0)
        self.passages: Passages
        self._clock = clock
        self._calls = _Calls(script.calls)

    def submit(self, worker: SharedWorker, job: WorkerJob) -> None:
        call = self._calls.next(worker.id)
        worker.running.append(job)
        if call.seconds < END_S:
            self._clock.at(self._clock.now + call.seconds, self._ended, (worker, job, call))

    def cancel(self, worker: SharedWorker, job: WorkerJob) -> None:
        worker.running.remove(job)

    def _ended(self, subject: tuple[SharedWorker, WorkerJob, Call]) -> None:
        worker, job, call = subject
        if job in worker.running:
            worker.running.remove(job)
            if call.makes:
                self.passages.made([job], max(call.seconds, SHORTEST_S))
            else:
                self.passages.failed([job])


def in_simulator(script: Script) -> Trace:
    """Play a script with the simulator's driver."""
    clock = Events()
    fleet = _ScriptedFleet(clock, script)
    scores = [[ask.confidence] * ask.images for ask in script.asks]
    passages = fleet.passages = Passages(
        clock,
        fleet,
        plan=script.plans[0][1],
        scorer=make_scorer("rules"),
        limits=script.limits,
        start=0.0,
        confidence={variant: scores for worker in fleet.workers.values() for variant in worker.hosts},
        ended=lambda passage, end: None,
    )

    def asks(number: int) -> None:
        ask = script.asks[number]
        passages.receive(text=ask.text, prompt=number, images=range(ask.images), coins=[COIN] * ask.images)

    for at_s, plan in script.plans[1:]:
        clock.at(at_s, passages.follow, plan)
    for at_s in script.probes:
        clock.at(at_s, lambda _: passages.probe())
    for number, ask in enumerate(script.asks):
        clock.at(ask.at_s, asks, number)
    clock.at(END_S, lambda _: clock.stop())
    with _recorded() as trace:
        clock.run()
    return trace


# --- the router


class _Jumping(selectors.DefaultSelector):
    """A selector that does not wait: if nothing is ready, the clock jumps to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class _Timer(asyncio.TimerHandle):
    """A timer; of two timers for the same time, the one that was set first comes first."""

    number = 0

    def __lt__(self, other: object) -> bool:
        return isinstance(other, _Timer) and (self.when(), self.number) < (other.when(), other.number)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        self._numbers = itertools.count()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        timer.number = next(self._numbers)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer


class _ScriptedClients:
    """Takes the place of the clients of Triton."""

    def __init__(self, script: Script) -> None:
        self._calls = _Calls(script.calls)
        self._confidence = {ask.text: ask.confidence for ask in script.asks}

    async def make(
        self, *, endpoint: str, prompt: Prompt, request_id: str, timeout_s: float, confidence: bool, **_: Any
    ) -> TritonImage:
        if request_id == "probe":
            return TritonImage(1, 1)
        call = self._calls.next(endpoint.partition(":")[0])
        await asyncio.sleep(min(call.seconds, timeout_s))
        if call.seconds >= timeout_s:
            raise ReplicaTimedOut
        if not call.makes:
            raise ReplicaFailed(GONE)
        batch_time = BatchTime(images=1, seconds=max(call.seconds, SHORTEST_S))
        return TritonImage(
            1, 1, confidence=self._confidence[prompt.text] if confidence else None, batch_time=batch_time
        )

    def keep(self, endpoints: object) -> None: ...

    async def close(self) -> None: ...


async def _play(script: Script) -> None:
    loop = asyncio.get_running_loop()
    plan = script.plans[0][1]
    queue = WorkQueue(url=None, ref=plan.ref, router_id="router", limit=script.limits.waiting, clock=loop.time)
    await queue.start()
    runtime = CascadeRuntime(ref=plan.ref, plan=plan, queue=queue, limits=script.limits, clock=loop.time, start=0.0)
    runtime.clients = _ScriptedClients(script)  # type: ignore[assignment]
    await runtime.apply(plan)
    in_hand = 0
    tasks: list[asyncio.Task[None]] = []

    async def asks(ask: Ask) -> None:
        nonlocal in_hand
        in_hand += ask.images
        left = ask.images
        requests = [admitted(runtime, id="", prompt=Prompt(ask.text), index=index) for index in range(ask.images)]
        passages = [Passage(request, coin=COIN) for request in requests]

        async def answer(passage: Passage) -> None:
            nonlocal in_hand, left
            with contextlib.suppress(RequestRefused):
                await passage.answer()
            in_hand, left = in_hand - 1, left - 1

        try:
            for event in (Arrived(in_hand), Begun()):
                hear(passages, event)
            await asyncio.gather(*map(answer, passages))
        except RequestRefused:
            in_hand -= left

    def begin(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(loop.create_task(work))

    for at_s, next_plan in script.plans[1:]:
        loop.call_at(at_s, lambda plan=next_plan: begin(runtime.apply(plan)))
    for at_s in script.probes:
        loop.call_at(at_s, lambda: begin(probe_due(runtime)))
    for ask in script.asks:
        loop.call_at(ask.at_s, lambda ask=ask: begin(asks(ask)))
    await asyncio.sleep(END_S)
    await asyncio.gather(*tasks)
    await runtime.close()


def in_router(script: Script) -> Trace:
    """Play a script with the router's driver."""
    with _recorded() as trace, asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        runner.run(_play(script))
    return trace


# --- what is compared


def differences(router: Trace, simulator: Trace) -> list[str]:
    """For each request the first step in which the traces differ; times count in milliseconds, images not at all."""
    found = []
    for text in sorted({*router, *simulator}):
        ours, theirs = ([_words(line) for line in trace.get(text, ())] for trace in (router, simulator))
        for number, (one, other) in enumerate(zip_longest(ours, theirs, fillvalue="nothing more")):
            if one != other:
                before = "".join(f"\n  {line}" for line in ours[:number])
                found.append(f"{text}:{before}\n  router:    {one}\n  simulator: {other}")
                break
    return found


def _words(value: Any) -> str:
    if isinstance(value, TritonImage) or value is None:
        return "-"
    if isinstance(value, float):
        return f"{value * 1000:.0f}"
    if isinstance(value, str) and not isinstance(value, Enum):
        return re.sub(r"[0-9]+[.][0-9]+", "#", value)
    if is_dataclass(value):
        parts = (f"{field.name}={_words(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        return "; ".join(map(_words, value))
    return str(value)

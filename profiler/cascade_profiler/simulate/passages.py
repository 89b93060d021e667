"""Drives the requests of a simulation through the cascade: it carries out the effects of their machines, event by
event.

The machines and their state are the router's (`cascade_router.cascade`). Where the router waits for a network or a
clock, this driver waits for a simulated event. It decides nothing itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from cascade_api.plan import Plan
from cascade_api.report import BatchTime
from cascade_router.cascade import effects, events
from cascade_router.cascade.calls import hear_together
from cascade_router.cascade.decisions import Refuse
from cascade_router.cascade.machine import Effects, RequestMachine
from cascade_router.cascade.state import CascadeState, Limits
from cascade_router.prompts.scorers import Scorer

from .events import Events
from .pools import BAND, Pools, RequestPlace
from .shared_workers import SharedFleet, SharedWorker
from .workers import WorkerJob

NOT_READY: Final = "it is not ready"

End = effects.Answer | Refuse


class SimulatedPassage(RequestPlace):
    """One request on its way through the cascade."""

    __slots__ = ("arrival_s", "begun", "image", "job", "machine", "planned", "prompt", "size", "waits")

    job: WorkerJob

    def __init__(
        self, machine: RequestMachine, *, arrival_s: float, prompt: int, image: int, planned: float, size: str
    ) -> None:
        super().__init__()
        self.size = size
        self.machine = machine
        self.arrival_s = arrival_s
        self.prompt = prompt
        self.image = image
        self.planned = planned
        """The quality that the plan promised when the request arrived."""
        self.begun = False
        self.waits = 0
        """Number of the latest wait for a change."""


class Passages:
    """All requests that one simulated router has in hand.

    Args:
        start: where evenly spaced draws begin, in [0, 1).
        confidence: gives the discriminator's score of a light image, by variant, prompt and image.
        kind: the name of a variant among those of all cascades that the fleet serves.
        ended: is called with each request that has ended.
        blind: whether only workers know the size of an image.
    """

    def __init__(
        self,
        clock: Events,
        fleet: SharedFleet,
        *,
        plan: Plan,
        scorer: Scorer,
        limits: Limits,
        start: float,
        confidence: Mapping[str, Sequence[Sequence[float]]],
        ended: Callable[[SimulatedPassage, End], None],
        kind: Callable[[str], str] = str,
        blind: bool = False,
    ) -> None:
        self._blind = blind
        self._kind = kind
        self._variants = {kind(name): name for name in confidence}
        self._clock = clock
        self._fleet = fleet
        self._confidence = confidence
        self._ended = ended
        self.pools: Pools[SimulatedPassage] = Pools(clock, limit=limits.waiting, tell=self._tell)
        self.state = CascadeState(plan, load=self.pools.load, limits=limits, scorer=scorer, start=start)
        self.pools.follow(plan)
        self._in_hand = 0
        self._parked: dict[SimulatedPassage, None] = {}
        self._heard: deque[tuple[SimulatedPassage, events.Event]] = deque()
        self._busy = False
        self._acting: SimulatedPassage | None = None

    def receive(self, *, text: str, prompt: int, images: Sequence[int], coins: Sequence[float], size: str = "") -> None:
        """Begin with a request that arrives now, for one image or several; ``coins`` has one number for each.

        ``size`` is that of the images; empty: the default.
        """
        now = self._clock.now
        plan = self.state.plan
        passages = [
            SimulatedPassage(
                RequestMachine(
                    self.state,
                    text=text,
                    band=BAND,
                    coin=coin,
                    received=now,
                    deadline=now + plan.objective_s,
                    ahead=ahead,
                    size="" if self._blind else size,
                ),
                arrival_s=now,
                prompt=prompt,
                image=image,
                planned=plan.expected.quality,
                size=size,
            )
            for ahead, (image, coin) in enumerate(zip(images, coins, strict=True))
        ]
        self._in_hand += len(passages)
        machines = [passage.machine for passage in passages]
        heard = hear_together(machines, events.Arrived(self._in_hand), now)
        if not isinstance(heard, Refuse):
            for passage in passages:
                passage.begun = True
            heard = hear_together(machines, events.Begun(), now)
        for passage, todo in zip(
            passages, [[heard]] * len(passages) if isinstance(heard, Refuse) else heard, strict=True
        ):
            self._act(passage, todo)
            self._hear()

    def follow(self, plan: Plan) -> None:
        """Follow a plan."""
        with self._at_once():
            self.state.follow(plan)
            self.pools.follow(plan)
            self._wake()

    def probe(self) -> None:
        """Check whether replicas that failed work again."""
        now = self._clock.now
        with self._at_once():
            for _, replica in self.state.probes(now=now):
                if self._fleet.workers[replica.id].ready:
                    self._note(self.state.works(replica.id))
                else:
                    self._note(self.state.failed(replica.id, NOT_READY, now=now))

    def made(self, jobs: Sequence[WorkerJob], seconds: float) -> None:
        """A worker made the images of a batch, in ``seconds``."""
        batch_time = BatchTime(images=len(jobs), seconds=seconds)
        for job in jobs:
            passage: SimulatedPassage = job.request
            score = self._confidence[self._variants[job.variant]][passage.prompt][passage.image] if job.judged else None
            self._tell(passage, events.Made(None, score, batch_time))

    def failed(self, jobs: Sequence[WorkerJob]) -> None:
        """A worker is gone, with what it had in hand."""
        for job in jobs:
            self._tell(job.request, events.Failed("the worker is gone"))

    def _tell(self, passage: SimulatedPassage, event: events.Event) -> None:
        """Give an event to a machine, after all earlier events; if a machine is acting now, it finishes first."""
        if passage is self._acting:
            self._heard.appendleft((passage, event))
        else:
            self._heard.append((passage, event))
        if not self._busy:
            self._hear()

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Give the events that happen in the block to the machines only after the whole block."""
        self._busy = True
        yield
        self._hear()

    def _act(self, passage: SimulatedPassage, todo: Effects) -> None:
        """Carry out what a machine asks for; what it is told meanwhile, it hears next."""
        self._busy, self._acting = True, passage
        for effect in todo:
            self._carry_out(passage, effect)

    def _hear(self) -> None:
        self._busy = True
        while self._heard:
            passage, event = self._heard.popleft()
            self._act(passage, passage.machine.on(event, self._clock.now))
        self._busy, self._acting = False, None

    def _carry_out(self, passage: SimulatedPassage, effect: effects.Effect) -> None:
        match effect:
            case effects.Enqueue(step):
                self.pools.enter(passage, step, work=passage.machine.work(step))
            case effects.Exchange(step, service_s):
                release = self.pools.release(passage, service_s=service_s)
                self.pools.enter(passage, step, work=passage.machine.work(step), leaving=release)
            case effects.Infer():
                self._infer(passage, effect)
            case effects.Release(service_s, failed):
                self.pools.leave(self.pools.release(passage, service_s=service_s, failed=failed))
            case effects.Answer() | Refuse():
                self._in_hand -= 1
                self._ended(passage, effect)
            case effects.Wait(until):
                self._parked[passage] = None
                passage.waits += 1
                self._clock.at(until, self._give_up, (passage, passage.waits))
            case effects.Ejected() | effects.Trusted():
                self._note([effect])
            case effects.Preview():
                pass

    def _infer(self, passage: SimulatedPassage, infer: effects.Infer) -> None:
        worker = self._fleet.workers[infer.replica_id]
        kind = self._kind(infer.step.variant)
        if not self._fleet.serves(worker, kind):
            self._tell(passage, events.Failed(NOT_READY))
            return
        passage.job = WorkerJob(passage, judged=infer.step.stage == "light", variant=kind, size=passage.size)
        self._clock.at(self._clock.now + infer.timeout_s, self._out_of_time, (worker, passage.job))
        self._fleet.submit(worker, passage.job)

    def _out_of_time(self, subject: tuple[SharedWorker, WorkerJob]) -> None:
        """The worker's time for a request is over: the request is cancelled there, if the worker still has it."""
        worker, job = subject
        if job in worker.running or job in worker.waiting:
            self._fleet.cancel(worker, job)
            self._tell(job.request, events.OutOfTime())

    def _note(self, news: Sequence[effects.Ejected | effects.Trusted]) -> None:
        for each in news:
            match each:
                case effects.Ejected():
                    for pool in each.emptied:
                        self.pools.turn_away(pool)
                case effects.Trusted():
                    self._wake()

    def _wake(self) -> None:
        """Wake the requests that wait for a change, since plan or health changed."""
        parked, self._parked = self._parked, {}
        for passage in parked:
            self._tell(passage, events.Waited(changed=True))

    def _give_up(self, subject: tuple[SimulatedPassage, int]) -> None:
        passage, wait = subject
        if passage in self._parked and passage.waits == wait:
            del self._parked[passage]
            self._tell(passage, events.Waited(changed=False))

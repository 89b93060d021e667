"""The course of one request through the cascade, as a state machine that does no I/O.

    effects = machine.on(event, now)

The router's asyncio driver (`cascade_router.engine`) and the simulator's event driver
(`cascade_profiler.simulate.passages`) carry the effects out and return with the next event; neither decides anything.
`decisions` holds the decisions as pure functions, and `state` what all requests of a cascade share.

A request is in one of these phases:

1. *admission*: on `Begun` the machine draws a row of the plan, scores the prompt, and picks the first model. If that
   model has no replica now but one is expected, the request waits for a change and then looks again.
2. *queued*, then *running*: the pool's queue grants a replica (`Granted`), and the replica makes the image (`Made`). If
   the replica fails or is no longer trusted, the same model is tried again (`_try_again`).
3. *judged*: the light image is good enough, or the heavy model makes the image again (back to 2, while the machine
   keeps the light image).
4. *ended*: `Answer` or `Refuse`. If a model makes no image (`_without_image`), the light image that was kept is the
   answer instead of the heavy one, or the other model makes the image, if policy and time allow. If
   neither model can, the plan may name a quick variant that makes it (the stand-in).

For example, a worker dies while it makes the heavy image of an escalated request. On `Failed` the machine gives the
grant back and ejects the replica, and another replica of the heavy model tries, while time, retries and replicas last.
If none succeeds, the answer with `overload: degrade` is the light image, at once; with `overload: strict` the request
waits for a replica that is expected, and is refused when it is too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cascade_api.reasons import Refusal, Route

from .choosing import NO_WISH, Choice, Wish
from .decisions import (
    Accept,
    Make,
    Overload,
    Refuse,
    admit,
    after_light,
    best,
    instead,
    may_fall_back,
    may_turn,
    on_failure,
)
from .effects import Answer, Effect, Enqueue, Exchange, Infer, Preview, Release, Wait
from .events import (
    Arrived,
    Begun,
    Cancelled,
    Event,
    Expired,
    Failed,
    Full,
    Granted,
    Made,
    NoReplica,
    OutOfTime,
    Rejected,
    Waited,
)
from .state import CascadeState

ANSWER_MARGIN: Final = 0.025
ANSWER_MARGIN_S: Final = (0.01, 0.25)
"""Share of the time allowed, and its bounds in seconds, that is reserved for answering with the light image if the
heavy one does not come: the answer must reach the client by the deadline."""
AFTER_IMAGE: Final = 0.25
"""Largest share of the time allowed that is reserved for packing and sending the image."""
HUNG_FACTOR: Final = 4.0
HUNG_EXTRA_S: Final = 1.0
"""A replica that takes longer than 4 times its execution time plus a second counts as failed."""
STAND_IN_TIMES: Final = 1.2
"""How many times as long as now the stand-in may take by then: its time is reserved with this factor."""
LOOK_AGAIN_S: Final = 0.5
"""How often a request that waits for a replica of one model checks whether the other model could now make its image."""

Effects = Sequence[Effect]


@dataclass(frozen=True, slots=True)
class _Try:
    """A replica that works on the request; the grant for it is held as long."""

    replica_id: str
    began: float
    left_s: float
    """Seconds until this image would be too late."""
    hung_after_s: float
    """Seconds after which the replica counts as hanging: nobody answers for what a process had in hand that died."""

    @property
    def may_be_another(self) -> bool:
        """Whether there is time for another try after this one is given up."""
        return self.hung_after_s < self.left_s

    def hangs(self, now: float) -> bool:
        """Whether the replica is at fault if it runs out of time."""
        return self.may_be_another or now - self.began > self.hung_after_s

    def release(self, event: Event, now: float) -> Release:
        """The release of the grant after ``event``, which ended the try."""
        match event:
            case Made():
                return Release(service_s=now - self.began)
            case Failed():
                return Release(failed=True)
            case OutOfTime():
                return Release(failed=self.hangs(now))
        return Release()


@dataclass(frozen=True, slots=True)
class _Light:
    """The light image that is kept while the heavy one is being made, and the variant that made it."""

    image: Any
    confidence: float
    variant: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A wait for a change."""

    refusal: Refuse
    """The reason for the wait: the refusal that is given if nothing changes."""
    in_vain: bool
    """Whether the request is refused if the wait ends without a change."""


class RequestMachine:
    """One request. The first events are `Arrived` and `Begun`; each later one reports how the last effect ended.

    ``choice`` is what was drawn for the request; it exists from `Begun` on.

    Args:
        cascade: what all requests of the cascade share.
        text: the prompt.
        band: priority band.
        coin: random in [0, 1), for scorers that use it.
        received: when the request arrived; all times are seconds on one monotonic clock.
        deadline: when its image must have been sent.
        ahead: how many images of the same call go before this one (see `calls`).
        wish: what the client says about the model. If it names settings, no other variant takes over, as under
            ``overload: strict``.
        size: of the image, such as ``1024x768``; empty: the cascade's default.
    """

    choice: Choice
    _deadline: float
    """When the image must have been made."""
    _step: Make

    def __init__(
        self,
        cascade: CascadeState,
        *,
        text: str,
        band: int,
        coin: float,
        received: float,
        deadline: float,
        ahead: int = 0,
        wish: Wish = NO_WISH,
        size: str = "",
    ) -> None:
        self._cascade = cascade
        self._text = text
        self._band = band
        self._coin = coin
        self._received = received
        self._send_by = deadline
        self._ahead = ahead
        self._wish = wish
        self._size = size
        self._overload: Overload = "strict" if wish.names_settings else cascade.plan.overload
        self._waiting_limit = cascade.waiting_limit(band)
        self._admitted = False
        """Whether a model was found for the request; from then on, ``_step`` says what the present model has to do."""
        self._attempts = 0
        """Number of replicas on which the present model was tried."""
        self._unpaid = False
        """Whether the last try failed and the next one has not yet been charged to the budget of retries."""
        self._turned = False
        """Whether the request has turned from the first model to the other, which happens at most once."""
        self._stood_in = False
        """Whether the plan's stand-in was asked, which happens at most once."""
        self._try: _Try | None = None
        """Set while a replica works on the request."""
        self._light: _Light | None = None
        self._waiting: _Waiting | None = None

    def work(self, step: Make) -> float:
        """The time that its image takes in a step, relative to one of the default size."""
        return self._cascade.work(self._cascade.pool_of(step), self._size)

    def on(self, event: Event, now: float) -> Effects:
        """The effects that follow from ``event`` at ``now``.

        An event that ends a try also ends its grant. The grant is given back before anything else, unless the effects
        exchange it for another one.
        """
        todo = self._on(event, now)
        for effect in todo if self._wish.leaves_it_to_the_plan else ():
            if isinstance(effect, Answer):
                self._cascade.made_rows.note(self.choice.row, effect.route)
        return todo

    def _on(self, event: Event, now: float) -> Effects:
        tried, self._try = self._try, None
        if tried is None:
            return self._heard(event, now)
        todo = self._ended(tried, event, now)
        if any(isinstance(effect, Exchange) for effect in todo):
            return todo
        return [tried.release(event, now), *todo]

    def _heard(self, event: Event, now: float) -> Effects:
        """The effects of an event that comes while no replica is at work."""
        match event:
            case Arrived(in_hand):
                return self._arrived(in_hand)
            case Begun():
                return self._begun(now)
            case Granted(replica_id):
                return self._granted(replica_id, now)
            case NoReplica():
                return self._try_again(now)
            case Expired():
                why = f"the {self._step.stage} model could not begin in time to meet the deadline"
                return self._without_image(Refuse(Refusal.DEADLINE_EXCEEDED, why), now)
            case Full(waiting, expected_wait_s):
                why = f"{waiting} requests wait for the {self._step.stage} model, which is the limit"
                return self._without_image(Refuse(Refusal.QUEUE_FULL, why, expected_wait_s), now)
            case Waited(changed):
                wait = self._stop_waiting()
                return self._waited(wait, changed, now) if wait is not None else ()
            case Cancelled():
                self._stop_waiting()
        return ()

    def _ended(self, tried: _Try, event: Event, now: float) -> Effects:
        """The effects of an event that ends the try on a replica."""
        match event:
            case Made():
                return self._made(tried, event, now)
            case Failed(why):
                return self._failed(tried, why, now)
            case OutOfTime():
                return self._out_of_time(tried, now)
            case Rejected(why):
                named = ("prompt", "lora", "size", "image", "mask", "strength")
                field = next((name for name in named if why.startswith(name)), "")
                why, field = (why, field) if field else (f"prompt: {why}", "prompt")
                return self._without_image(Refuse(Refusal.INVALID, why, field=field), now)
        return ()  # cancelled

    # -- admission ------------------------------------------------------------------------------------------------

    def _arrived(self, in_hand: int) -> Effects:
        if in_hand > self._cascade.limits.in_hand:
            return [
                Refuse(
                    Refusal.QUEUE_FULL, "the router has as many requests in hand as it accepts; try again later", 1.0
                )
            ]
        return ()

    def _begun(self, now: float) -> Effects:
        cascade = self._cascade
        after_s = min(AFTER_IMAGE * (self._send_by - self._received), cascade.after_image.quantile or 0.0)
        self._deadline = self._send_by - after_s
        self.choice = self._choose()
        cascade.tiers.note(self._wish.tier, now=now)
        cascade.retries.earn()
        cascade.arrived.observe(self._size or cascade.plan.sizes[0], now=now)
        return self._admit(now)

    def _admit(self, now: float) -> Effects:
        row, direct = self.choice.row, self.choice.direct
        step = admit(
            direct=direct,
            light=()
            if row.alone
            else self._cascade.outlooks(row.light, band=self._band, ahead=self._ahead, size=self._size),
            heavy=self._cascade.outlooks(row.heavy, band=self._band, ahead=self._ahead, size=self._size),
            deadline=self._deadline,
            now=now,
            overload=self._overload,
            queue_limit=self._waiting_limit,
            escalates=row.escalation > 0,
            patience=self._cascade.plan.patience,
        )
        if isinstance(step, Make):
            self._admitted = True
            return self._enqueue(step)
        waits = self._wait(step, row.heavy if direct else row.light, now)
        if waits:
            return waits
        quick = self._stand_in(now)
        if quick is None:
            return [step]
        self._admitted = True
        return self._stands_in(quick)

    # -- queued and running ---------------------------------------------------------------------------------------

    def _enqueue(self, step: Make) -> Effects:
        """Begin with a model: wait for a replica of it."""
        self._step, self._attempts = step, 0
        return [Enqueue(step)]

    def _granted(self, replica_id: str, now: float) -> Effects:
        cascade, step = self._cascade, self._step
        if replica_id in cascade.health.ejected:
            # Released as failed, so that the queue gives the replica no grants for a while.
            return [Release(failed=True), *self._try_again(now)]
        self._attempts += 1
        left_s = self._deadline - now
        if self._light is not None and self._overload == "degrade":
            least, most = ANSWER_MARGIN_S
            left_s -= max(least, min(most, ANSWER_MARGIN * (self._deadline - self._received)))
        else:
            left_s -= self._kept_for_stand_in_s(left_s)
        hung_after_s = HUNG_FACTOR * cascade.execution_s(cascade.pool_of(step), self._size) + HUNG_EXTRA_S
        self._try = _Try(replica_id, now, left_s, hung_after_s)
        return [Infer(step, replica_id, min(left_s, hung_after_s), only_judged=self._surely_escalates())]

    def _made(self, tried: _Try, made: Made, now: float) -> Effects:
        cascade, step = self._cascade, self._step
        service_s = now - tried.began
        cascade.made(cascade.pool_of(step), self._size, service_s, made.batch_time, now=now)
        news = cascade.works(tried.replica_id)
        if step.stage == "light":
            return [*news, *self._judged(_Light(made.image, made.confidence or 0.0, step.variant), service_s, now)]
        light = self._light
        route, score = (Route.DIRECT, None) if light is None else (Route.ESCALATED, light.confidence)
        return [*news, Answer(made.image, step.variant, route, score)]

    def _judged(self, light: _Light, service_s: float, now: float) -> Effects:
        """The effects after a light image was made, in ``service_s`` seconds."""
        cascade, row = self._cascade, self.choice.row
        if self._step.degraded:
            return [self._answer(light, Route.DEGRADED)]
        escalate = cascade.chooser.escalates(row, light.confidence)
        escalate = escalate or self._surely_escalates()
        step = after_light(
            escalate=escalate,
            heavy=cascade.outlooks(row.heavy, band=self._band, size=self._size) if escalate else (),
            deadline=self._deadline,
            now=now,
            overload=self._overload,
            queue_limit=self._waiting_limit,
            patience=cascade.plan.patience,
        )
        match step:
            case Make():
                self._light, self._step, self._attempts = light, step, 0
                return [Preview(self._answer(light, Route.LIGHT)), Exchange(step, service_s)]
            case Accept(degraded):
                return [self._answer(light, Route.DEGRADED if degraded else Route.LIGHT)]
            case Refuse():
                return [step]

    # -- tries that fail ------------------------------------------------------------------------------------------

    def _failed(self, tried: _Try, why: str, now: float) -> Effects:
        news = self._cascade.failed(tried.replica_id, why, now=now)
        self._unpaid = True
        return [*news, *self._try_again(now)]

    def _out_of_time(self, tried: _Try, now: float) -> Effects:
        """The replica is given up, for another one or because the image would be too late."""
        cascade, step = self._cascade, self._step
        took_s, hangs = now - tried.began, tried.hangs(now)
        if hangs:
            # The time counts for the estimate: if all replicas are this slow, they soon no longer count as hanging.
            cascade.made(cascade.pool_of(step), self._size, took_s, None, now=now)
        if tried.may_be_another:
            return self._failed(tried, f"no answer within {tried.hung_after_s:.1f} s", now)
        news = cascade.failed(tried.replica_id, f"no answer within {took_s:.1f} s", now=now) if hangs else ()
        why = f"the {step.stage} model did not finish before the deadline"
        late = self._without_image(Refuse(Refusal.DEADLINE_EXCEEDED, why), now)
        return [*news, *late]

    def _try_again(self, now: float) -> Effects:
        """Try the model again after a failed try; if no replica is trusted now but one is expected, wait for it."""
        cascade, step = self._cascade, self._step
        again = on_failure(
            stage=step.stage,
            attempts=self._attempts,
            outlooks=cascade.outlooks(step.variant, band=self._band, size=self._size),
            deadline=self._deadline,
            now=now,
            retry_budget=cascade.retries.left,
        )
        if isinstance(again, Make):
            retry, self._unpaid = self._unpaid, False
            if retry:
                cascade.retries.spend()
            self._step = replace(again, degraded=step.degraded)
            return [Enqueue(self._step, retry=retry)]
        # If another image can be the answer, that is better now than waiting.
        patient = self._overload == "strict" or not (self._light or self._instead(now))
        waits = self._wait(again, step.variant, now) if patient else ()
        return waits or self._without_image(again, now)

    def _without_image(self, refusal: Refuse, now: float) -> Effects:
        """The model makes no image: answer with another image if possible, and otherwise refuse."""
        if self._light is not None:
            falls_back = may_fall_back(refusal.reason, overload=self._overload)
            return [self._answer(self._light, Route.DEGRADED) if falls_back else refusal]
        other = self._instead(now) if may_turn(self._step.stage, refusal.reason, overload=self._overload) else None
        if other is not None:
            self._turned, self._unpaid = True, False
            return self._enqueue(other)
        quick = self._stand_in(now) if may_fall_back(refusal.reason, overload=self._overload) else None
        return [refusal] if quick is None else self._stands_in(quick)

    def _instead(self, now: float) -> Make | None:
        """The step in which the other model makes the image; None if it cannot."""
        other = self._other(self._step.variant)
        if self._turned or other is None:
            return None
        return instead(
            self._step.stage,
            others=self._cascade.outlooks(other, band=self._band, size=self._size),
            deadline=self._deadline,
            now=now,
            overload=self._overload,
            queue_limit=self._waiting_limit,
        )

    # -- the stand-in of the plan ---------------------------------------------------------------------------------

    @property
    def _stand_in_variant(self) -> str | None:
        """The plan's fast variant, if it may replace the variants of the row and has not been tried yet."""
        plan = self._cascade.plan
        name = plan.stand_in
        if name not in plan.variants or not self._wish.is_met_by(plan.variants[name]):
            return None
        may = name not in self.choice.row.chain and self._overload == "degrade" and not self._stood_in
        return name if may else None

    def _stand_in(self, now: float) -> Make | None:
        """The step in which the stand-in makes the image, or None if it would be too late."""
        name = self._stand_in_variant
        if name is None:
            return None
        return instead(
            "heavy",
            others=self._cascade.outlooks(name, band=self._band, size=self._size),
            deadline=self._deadline,
            now=now,
            overload=self._overload,
            queue_limit=self._waiting_limit,
        )

    def _stands_in(self, step: Make) -> Effects:
        self._stood_in, self._unpaid = True, False
        return self._enqueue(step)

    def _kept_for_stand_in_s(self, left_s: float) -> float:
        """Of the seconds left those in which the stand-in can make an image, should the replica at work not be done."""
        name = self._stand_in_variant
        soonest = (
            None if name is None else best(self._cascade.outlooks(name, band=self._band, size=self._size), now=0.0)
        )
        if soonest is None:
            return 0.0
        kept_s = STAND_IN_TIMES * soonest.finish(0.0)
        return kept_s if kept_s < left_s else 0.0

    # -- waits for a change ---------------------------------------------------------------------------------------

    def _wait(self, refusal: Refuse, variant: str, now: float) -> Effects:
        """Wait for a change if a replica of ``variant`` is expected; empty if waiting is useless.

        If the other model has replicas but too much work, the wait is short, since it may soon have less.
        """
        cascade = self._cascade
        if refusal.reason is not Refusal.NO_REPLICA:
            return ()
        execution_s = min((outlook.execution_s for outlook in cascade.outlooks(variant, size=self._size)), default=0.0)
        too_late = self._deadline - execution_s
        if now >= too_late or cascade.waiting >= self._waiting_limit or not cascade.expects_replica(variant):
            return ()
        other = self._other(variant)
        nothing_else = self._overload == "strict" or self._turned or other is None or not cascade.ready(other)
        self._waiting = _Waiting(refusal, in_vain=nothing_else)
        cascade.waiting += 1
        return [Wait(too_late if nothing_else else min(too_late, now + LOOK_AGAIN_S))]

    def _waited(self, wait: _Waiting, changed: bool, now: float) -> Effects:
        in_vain = wait.in_vain and not changed
        if self._admitted:
            return self._without_image(wait.refusal, now) if in_vain else self._try_again(now)
        if in_vain:
            return [wait.refusal]
        if self.choice.row not in (*self._cascade.plan.rows, *self._cascade.plan.tiers.values()):
            # The new plan does not have the row that was drawn.
            self.choice = self._choose()
        return self._admit(now)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _stop_waiting(self) -> _Waiting | None:
        wait, self._waiting = self._waiting, None
        if wait is not None:
            self._cascade.waiting -= 1
        return wait

    def _surely_escalates(self) -> bool:
        """Whether the image that is being made is a light one that cannot be the answer.

        The plan escalates all of its row, and under ``overload: strict`` none stands in for a heavy image.
        """
        light = self._step.stage == "light" and not self._step.degraded
        return light and self.choice.row.escalation >= 1 and self._overload == "strict"

    def _choose(self) -> Choice:
        return self._cascade.chooser.choose(self._cascade.plan, self._text, coin=self._coin, wish=self._wish)

    def _answer(self, light: _Light, route: Route) -> Answer:
        return Answer(light.image, light.variant, route, light.confidence)

    def _other(self, variant: str) -> str | None:
        """The other variant of the chain; None if there is none."""
        return next((name for name in self.choice.row.chain if name != variant), None)

"""Answers on their way to the client. A request counts as answered when its image was sent, and as late if that was
late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import TypeVar

from cascade_api.reasons import Refusal

from .admission import Admitted
from .pools.clients import TritonImage
from .requests import MadeImage, RequestRefused

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A request whose image was made, at ``made_at`` on the router's monotonic clock, and must still be sent."""

    admitted: Admitted
    answer: MadeImage
    made_at: float


@dataclass(frozen=True, slots=True)
class Unmade:
    """A request of a call that got no image, though others of the call did."""

    admitted: Admitted
    refused: RequestRefused


Outcome = Undelivered | Unmade


class Delivery(AbstractContextManager["Delivery"]):
    """Images of one call, at least one. A delivery ends exactly once: when its block ends, or by `sent` or `failed`.

    Args:
        outcomes: of the requests of the call in their order.
        held: what the call holds until its images are sent, such as memory for them; it is closed at the end.
        end: is called with the requests and the reason why their images were not sent (None: they were).
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        *,
        held: ExitStack,
        clock: Callable[[], float],
        end: Callable[[Sequence[Outcome], RequestRefused | None], None],
    ) -> None:
        self._outcomes = outcomes
        self._held = held
        self._clock = clock
        self._end = end
        self._ended = False

    @property
    def _made(self) -> list[Undelivered]:
        return [outcome for outcome in self._outcomes if isinstance(outcome, Undelivered)]

    def pack(self, write: Callable[[Sequence[MadeImage | RequestRefused]], _T]) -> _T:
        """The message that ``write`` makes of the answers, to be sent now; the images themselves are then released.

        If this fails, the delivery ends. Raises RequestRefused if it is too late to send anything.
        """
        try:
            packed = write([each.refused if isinstance(each, Unmade) else each.answer for each in self._outcomes])
            self._outcomes = list(map(_without_image, self._outcomes))
            late_s = self._clock() - min(made.admitted.deadline for made in self._made)
            if late_s > 0:
                why = f"the image was made, but {late_s:.3f} s too late to be sent by the deadline"
                raise RequestRefused(Refusal.DEADLINE_EXCEEDED, why)
        except BaseException as error:
            self.failed(error)
            raise
        return packed

    def sent(self) -> None:
        """End the delivery: the transport has the whole answer."""
        if not self._ended:
            after_s = self._clock() - max(made.made_at for made in self._made)
            self._outcomes[0].admitted.runtime.state.after_image.observe(after_s)
        self._finish(None)

    def failed(self, error: BaseException | None = None) -> None:
        """End the delivery without an answer, because of a refusal or because the client went away."""
        refused = (
            error if isinstance(error, RequestRefused) else RequestRefused(Refusal.CANCELLED, "the client went away")
        )
        self._finish(refused)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.sent()
        else:
            self.failed(error)

    def _finish(self, refused: RequestRefused | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._held.close()
        self._end(self._outcomes, refused)
        self._outcomes = ()


def _without_image(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Unmade):
        return outcome
    return replace(outcome, answer=replace(outcome.answer, image=TritonImage(0, 0)))

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


class Delivery(AbstractContextManager["Delivery"]):
    """The images of one call. A delivery ends exactly once: when its block ends, or by `sent` or `failed`.

    Args:
        held: what the call holds until its images are sent, such as memory for them; it is closed at the end.
        end: is called with the requests and the reason why their images were not sent (None: they were).
    """

    def __init__(
        self,
        made: Sequence[Undelivered],
        *,
        held: ExitStack,
        clock: Callable[[], float],
        end: Callable[[Sequence[Undelivered], RequestRefused | None], None],
    ) -> None:
        self._made = made
        self._held = held
        self._clock = clock
        self._end = end
        self._ended = False

    def pack(self, write: Callable[[Sequence[MadeImage]], _T]) -> _T:
        """The message that ``write`` makes of the answers, to be sent now; the images themselves are then released.

        If this fails, the delivery ends. Raises RequestRefused if it is too late to send anything.
        """
        try:
            packed = write([made.answer for made in self._made])
            self._made = [replace(made, answer=replace(made.answer, image=TritonImage(0, 0))) for made in self._made]
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
            self._made[0].admitted.runtime.state.after_image.observe(after_s)
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
        self._end(self._made, refused)
        self._made = ()

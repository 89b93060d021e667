"""Answers on their way to the client: an image counts as answered when it was sent, and as late when that was late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from cascade_api.reasons import Refusal

from .image_bytes import Room
from .pools.clients import Image
from .requests import Answer, GenerateRequest, Refused
from .runtime import CascadeRuntime


@dataclass(frozen=True, slots=True)
class Made:
    """A request whose image was made, and is to be sent; times are on the router's monotonic clock."""

    runtime: CascadeRuntime
    request: GenerateRequest
    answer: Answer
    deadline: float
    made_at: float


class Delivery:
    """The images of one call. Ends once: as the block around it ends, or by `sent` or `failed`.

    Args:
        room: what the images take up, given back at the end.
        end: takes each request with what became of it: None if its image was sent.
    """

    def __init__(
        self,
        made: Sequence[Made],
        *,
        room: Room,
        clock: Callable[[], float],
        end: Callable[[Made, Refused | None], None],
    ) -> None:
        self._made = made
        self._room = room
        self._clock = clock
        self._end = end
        self._ended = False

    @property
    def answers(self) -> list[Answer]:
        return [made.answer for made in self._made]

    def packed(self) -> None:
        """Hold the images no longer: they have been packed for the client."""
        self._made = [replace(made, answer=replace(made.answer, image=Image(0, 0))) for made in self._made]

    def check(self) -> None:
        """Raises Refused where it is too late to send anything."""
        late_s = self._clock() - min(made.deadline for made in self._made)
        if late_s > 0:
            raise Refused(
                Refusal.DEADLINE_EXCEEDED, f"the image was made, but {late_s:.3f} s too late to be sent by the deadline"
            )

    def sent(self) -> None:
        """All of it is with the transport."""
        if not self._ended:
            after_s = self._clock() - max(made.made_at for made in self._made)
            self._made[0].runtime.state.after_image.observe(after_s)
        self._finish(None)

    def failed(self, error: BaseException | None = None) -> None:
        """The client does not get it: because of a refusal, or because it went away."""
        refused = error if isinstance(error, Refused) else Refused(Refusal.CANCELLED, "the client went away")
        self._finish(refused)

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.sent()
        else:
            self.failed(error)

    def _finish(self, refused: Refused | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._room.give_back()
        for made in self._made:
            self._end(made, refused)
        self._made = ()

"""Makes PNG, JPEG and WebP of images, beside the model's work; knows nothing of Triton, so that tests can run it.

A request says in its parameters which form it wants. What takes a moment is encoded at once; the rest goes to a few
threads, and what waits for them is bounded: whoever brings more is held up until there is room.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# What writes a form is imported with the model, not while the first request waits.
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

FORMAT: Final = "image_format"
QUALITY: Final = "image_quality"
"""The parameters of a request."""

DEFAULT_QUALITY: Final = 90

_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Images with the noise that models draw (1024 x 1024) take 99 ms of a core at level 1, 101 at 3 and 132 at 6 and
    # shrink to 2.21, 2.20 and 2.02 MB; smooth ones take 18, 25 and 44 ms for 184, 168 and 106 kB. Time counts more.
    PngImagePlugin.PngImageFile.format: {"compress_level": 1},
    JpegImagePlugin.JpegImageFile.format: {},
    # The default, 4, takes three times as long (92 to 29 ms) for files of the same size.
    WebPImagePlugin.WebPImageFile.format: {"method": 0},
}
FORMATS: Final = tuple(name.lower() for name in _OPTIONS)

THREADS: Final = max(1, min(4, len(os.sched_getaffinity(0))))
"""Four encode 40 PNGs of 1024 x 1024 a second, more than a model draws; a replica on one core gains nothing by two."""

SMALL_BYTES: Final = 64 * 1024
"""Pixels of an image that is encoded faster (in a millisecond) than it is handed over."""

WAITING_BYTES: Final = 256 * 1024 * 1024
"""Pixels that wait or are being encoded: some 20 images of 2048 x 2048, and memory that any replica has to spare."""


@dataclass(frozen=True)
class Form:
    """The form of a file; ``quality`` is that of the lossy ones."""

    format: str = "png"
    quality: int = DEFAULT_QUALITY

    @classmethod
    def read(cls, parameters: Mapping[str, object]) -> Form:
        """What a request's parameters ask for; raises ValueError that names the parameter."""
        form, quality = parameters.get(FORMAT, cls.format), parameters.get(QUALITY, cls.quality)
        if form not in FORMATS:
            raise ValueError(f"{FORMAT}: {form!r:.60} is not a form of images; write {', '.join(FORMATS)}")
        if not (isinstance(quality, int) and not isinstance(quality, bool) and 1 <= quality <= 100):
            raise ValueError(f"{QUALITY}: {quality!r:.60} is not a quality; write a whole number of 1 to 100")
        return cls(str(form), quality)


def encode(image: npt.NDArray[np.uint8], form: Form) -> bytes:
    """The file of an image ``[height, width, 3]``; raises ValueError or OSError where the form cannot hold it."""
    file = io.BytesIO()
    name = form.format.upper()
    quality = {} if form.format == "png" else {"quality": form.quality}
    Image.fromarray(np.ascontiguousarray(image)).save(file, format=name, **_OPTIONS[name], **quality)
    return file.getvalue()


class Encoders:
    """A few threads that finish answers, and a bound on the bytes that they have in hand; thread-safe.

    Args:
        failed: is told what a task raised, in any thread.
    """

    def __init__(
        self, failed: Callable[[Exception], None], *, threads: int = THREADS, waiting_bytes: int = WAITING_BYTES
    ) -> None:
        self._failed = failed
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder")
        self._limit = waiting_bytes
        self._in_hand = 0
        self._room = threading.Condition()

    def do(self, task: Callable[[], None], size: int) -> None:
        """Run a task for ``size`` bytes: now where they are few, else in a thread, as soon as there is room for it.

        More bytes than the bound wait until nothing else is in hand.
        """
        if size <= SMALL_BYTES:
            self._try(task)
            return
        with self._room:
            self._room.wait_for(lambda: self._in_hand == 0 or self._in_hand + size <= self._limit)
            self._in_hand += size
        self._pool.submit(self._run, task, size)

    def close(self) -> None:
        """Wait until all that was handed over is done, and end the threads."""
        self._pool.shutdown(wait=True)

    def _run(self, task: Callable[[], None], size: int) -> None:
        self._try(task)
        with self._room:
            self._in_hand -= size
            self._room.notify_all()

    def _try(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:
            self._failed(error)

"""All that is said to Triton about one request, in the order that Triton bears; unit tests need no Triton for it.

Asking whether a request is cancelled when it has been answered ends the server (2.51) by a segmentation fault, and so
does speaking about a request that it has given up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Send = Callable[[Any, bool], None]
"""Gives Triton a response, and says whether it is the last."""


class RequestExchange:
    """One request until its answer; thread-safe.

    Args:
        cancelled: asks Triton.
        send: gives Triton a response.
        settle: is called before Triton is asked or told anything, and does not return where that would not be safe.
    """

    def __init__(self, cancelled: Callable[[], bool], send: Send, settle: Callable[[], None]) -> None:
        self._ask = cancelled
        self._send: Send | None = send
        self._settle = settle
        self._lock = threading.Lock()
        self._cancelled = False
        self._numbers = 0
        self._shown = 0

    def cancelled(self) -> bool:
        """Whether the client has given up; once answered, what was known last."""
        with self._lock:
            if self._send is not None and not self._cancelled:
                self._settle()
                self._cancelled = bool(self._ask())
            return self._cancelled

    def number(self) -> int:
        """What the next preview is shown by."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def show(self, number: int, response: Any) -> None:
        """Send a preview, unless a later one or the answer has been sent."""
        with self._lock:
            if self._send is not None and number > self._shown:
                self._shown = number
                self._settle()
                self._send(response, False)

    def answer(self, response: Any) -> None:
        """Send the last response; raises RuntimeError where it was sent already."""
        with self._lock:
            if self._send is None:
                raise RuntimeError("a request is answered once")
            send, self._send = self._send, None
            self._settle()
            send(response, True)

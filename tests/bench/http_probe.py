"""Asks for a URL over and over, until its standard input ends, and prints how many seconds each answer took, as JSON.

A program of its own that imports little and collects no garbage: a pause of whoever asks would be taken for the
server's.
"""

from __future__ import annotations

import gc
import http.client
import json
import select
import sys
import time
from typing import Final
from urllib.parse import urlsplit

PAUSE_S: Final = 0.01
_LONG_S: Final = 120.0


def main(url: str) -> None:
    """Print ``probing`` after the first answer, and at the end the seconds of those after it."""
    gc.disable()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_LONG_S)

    def ask() -> float:
        began = time.perf_counter()
        connection.request("GET", parts.path)
        connection.getresponse().read()
        return time.perf_counter() - began

    ask()
    print("probing", flush=True)
    took: list[float] = []
    while len(took) < 2 or not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        took.append(ask())
    print(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1])

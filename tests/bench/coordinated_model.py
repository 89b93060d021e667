"""A coordinator of turns between model processes, as `bench_sharing` tries it: server and client.

As a program it listens on a Unix socket and grants one process at a time a step: the one whose run has the fewest
steps, then the one that came first. Who does not return within the lease loses the turn. As a model it asks for steps.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import time
from pathlib import Path

NUMBER = struct.Struct("<i")
LEASE_S = 0.25


def coordinate(path: str) -> None:
    """Serve for ever."""
    selector = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    selector.register(listener, selectors.EVENT_READ)
    waiting: dict[socket.socket, int] = {}
    holder, since_s = None, 0.0
    while True:
        left_s = max(0.0, since_s + LEASE_S - time.monotonic()) if holder is not None and waiting else None
        ready = selector.select(left_s)
        if not ready:
            holder = None
        for key, _ in ready:
            if key.fileobj is listener:
                connection = listener.accept()[0]
                selector.register(connection, selectors.EVENT_READ)
                continue
            connection = key.fileobj
            data = connection.recv(NUMBER.size)
            if connection is holder:
                holder = None
            if not data:
                waiting.pop(connection, None)
                selector.unregister(connection)
                connection.close()
            elif steps := NUMBER.unpack(data)[0]:
                waiting[connection] = steps
        if holder is None and waiting:
            holder = min(waiting, key=waiting.__getitem__)
            del waiting[holder]
            since_s = time.monotonic()
            holder.send(b"g")


if __name__ == "__main__":
    coordinate(sys.argv[1])
else:
    from cascade_models.serving import runs
    from cascade_models.serving.model import TritonPythonModel

    __all__ = ["TritonPythonModel"]

    _socket = socket.socket(socket.AF_UNIX)
    _socket.connect(str(Path(__file__).parents[3] / "turns"))
    _turn, _draw = runs.Runs.turn, runs.Runs._draw

    def turn(self):
        waited_s = _turn(self)
        began = time.perf_counter()
        _socket.send(NUMBER.pack(self._turns._begun[-1].steps))
        _socket.recv(1)
        return waited_s + time.perf_counter() - began

    def draw(self, run):
        _draw(self, run)
        if not self._turns._begun:
            _socket.send(NUMBER.pack(0))

    runs.Runs.turn, runs.Runs._draw = turn, draw

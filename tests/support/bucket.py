"""Fixtures: a real S3 server over a folder, `rclone serve s3`, that a test may stop, kill and start again.

It checks the signatures of requests and links, and how long links hold.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .ports import free_port
from .waiting import wait_for

NAME = "images"
KEY_ID, SECRET = "some-key-id", "a-secret-that-nobody-may-see"


class BucketServer:
    """A server process with one bucket, `images`; ``folder`` holds what is in it."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / NAME
        self.folder.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = directory.parent / "rclone.log"
        self.process: subprocess.Popen[bytes] | None = None

    def settings(self, **more: Any) -> dict[str, Any]:
        """The settings of a router that uses it; `credentials` belong to them."""
        return {"bucket": NAME, "bucket_endpoint": self.url, "bucket_prefix": "made/", **more}

    def start(self) -> None:
        """Start the server and wait until it answers."""
        program = shutil.which("rclone", path=Path(sys.executable).parent)
        assert program is not None, "rclone is not installed: pip install -r requirements/dev.lock"
        address = self.url.removeprefix("http://")
        environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{KEY_ID},{SECRET}"', "RCLONE_CONFIG": "/dev/null"}
        command = [program, "serve", "s3", "--addr", address, str(self.folder.parent)]
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_for(lambda: process.poll() is not None or self._answers(), what="the S3 server to answer")
        assert process.poll() is None, self.log.read_text()[-3000:]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; after SIGKILL the process is waited for."""
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()
            self.process = None

    def names(self) -> list[str]:
        """The names in the bucket."""
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())

    def _answers(self) -> bool:
        try:
            httpx.get(self.url)
        except httpx.TransportError:
            return False
        return True


@pytest.fixture
def bucket_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """The server, and its credentials in the environment of what the test starts."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    server = BucketServer(tmp_path / "buckets")
    server.start()
    yield server
    if server.process is not None:
        server.signal(signal.SIGKILL)

"""A model hub on this machine: it has the part of the hub's HTTP API that downloads need, and fails on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One commit of each repository; tests change it between downloads.

    Attributes:
        repositories: folders by ``owner/name``.
        gated: repositories that need the token.
        cut_after: bytes after which a connection breaks, and every later one at once; None: never.
        spoiled: files that arrive with another content of the same length.
        served: paths and the first byte asked for, of every file that was sent.
    """

    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_token"  # noqa: S105 - of this server alone
    cut_after: int | None = None
    spoiled: set[str] = field(default_factory=set)
    served: list[tuple[str, int]] = field(default_factory=list)
    asked: int = 0
    endpoint: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make the hub's own client use this hub, and wait as long as a busy machine needs to answer."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HUB_ETAG_TIMEOUT": "600", "HF_HUB_DOWNLOAD_TIMEOUT": "600"}

    def files(self, repository: str) -> dict[str, Path]:
        folder = self.repositories[repository]
        return {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked += 1
        path = urlsplit(self.path).path
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or file
        if self.headers["Authorization"] not in (None, f"Bearer {self.hub.token}"):
            self._answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif match is None or match[1] not in self.hub.repositories:
            self._refuse(404, "RepoNotFound")
        elif match[2] not in (None, "main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif listing is not None:
            self._list(listing[1])
        elif file is not None:
            self._send_file(file[1], file[3])

    def _list(self, repository: str) -> None:
        siblings = []
        for name, file in self.hub.files(repository).items():
            content = file.read_bytes()
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        gated = "auto" if repository in self.hub.gated else False
        answer = {"id": repository, "sha": COMMIT, "private": False, "gated": gated, "siblings": siblings}
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send_file(self, repository: str, name: str) -> None:
        if repository in self.hub.gated and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self._refuse(401, "GatedRepo")
            return
        file = self.hub.files(repository).get(name)
        if file is None:
            self._refuse(404, "EntryNotFound")
            return
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if name in self.hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.hub.served.append((name, start))
        self._answer(206 if wanted else 200, content[start:], headers)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.cut_after
        if limit is not None and len(body) > limit:
            self.wfile.write(body[:limit])
            self.wfile.flush()
            self.close_connection = True
            self.hub.cut_after = 0
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub with these repositories on a free port, while the block runs."""
    hub = Hub(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A probe trusts successful inferences of clients, and only requests an image if there were none."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cascade_models import probe
from cascade_models.probe import Evidence, ProbedModel, ProbeFailed, look

NOW = 1000.0


@dataclass
class Server:
    """A Triton as far as a probe sees it."""

    succeeded: int = 0
    failed: int = 0
    dead: bool = False
    done_meanwhile: int = 0
    asked: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    socket: str = ""

    def stats(self) -> dict[str, Any]:
        counts = {"success": {"count": self.succeeded}, "fail": {"count": self.failed}}
        return {"model_stats": [{"inference_stats": counts}]}


class Handler(http.server.BaseHTTPRequestHandler):
    server_of: ClassVar[Server]

    def do_GET(self) -> None:
        self._answer(200, self.server_of.stats())

    def do_POST(self) -> None:
        server = self.server_of
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        server.asked.append(request["inputs"][0]["data"][0])
        server.settings = request["parameters"]
        server.succeeded += server.done_meanwhile
        if server.dead:
            server.failed += 1
            self._answer(500, {"error": "Stub process is not healthy."})
        else:
            server.succeeded += 1
            self._answer(200, {})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(socket=str(tmp_path / "http"))
    handler = type("Bound", (Handler,), {"server_of": found})
    with socketserver.ThreadingUnixStreamServer(found.socket, handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield found
        listening.shutdown()
        thread.join()


def probed(server: Server, known: Evidence, *, now: float = NOW) -> Evidence:
    return look(ProbedModel(server.socket, "light", {"steps": 8}), known, every_s=10, timeout_s=30, now=now)


def test_the_first_look_asks_for_an_image(server: Server) -> None:
    assert probed(server, Evidence()) == Evidence(1, 0, NOW)
    assert server.asked == ["a large red circle"]
    assert server.settings == {"steps": 8}


def test_work_for_others_is_evidence_enough(server: Server) -> None:
    known = probed(server, Evidence())
    server.succeeded += 5
    assert probed(server, known, now=NOW + 60) == Evidence(6, 0, NOW + 60)
    assert len(server.asked) == 1


def test_an_idle_model_is_asked_once_in_a_while(server: Server) -> None:
    known = probed(server, Evidence())
    for second in range(1, 25):
        known = probed(server, known, now=NOW + second)
    assert len(server.asked) == 3


def test_a_dead_stub_is_noticed_at_once_where_it_failed_others(server: Server) -> None:
    known = probed(server, Evidence())
    server.dead, server.failed = True, 1
    with pytest.raises(ProbeFailed, match="Stub process is not healthy"):
        probed(server, known, now=NOW + 1)


def test_a_failure_behind_work_that_gets_done_is_none(server: Server) -> None:
    known = probed(server, Evidence())
    server.dead, server.failed, server.done_meanwhile = True, 1, 2
    assert probed(server, known, now=NOW + 1).succeeded == 3


def test_a_failure_is_one_where_nothing_was_taken_but_the_probe(server: Server) -> None:
    known = probed(server, Evidence())
    server.dead, server.failed, server.done_meanwhile = True, 1, 1
    with pytest.raises(ProbeFailed):
        probed(server, known, now=NOW + 1)


def test_a_server_that_is_not_there_fails(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="stats"):
        look(ProbedModel(str(tmp_path / "none"), "light"), Evidence(), every_s=10, timeout_s=1, now=NOW)


def test_the_command_keeps_what_it_saw_and_says_what_is_wrong(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe.tempfile, "gettempdir", lambda: str(tmp_path))
    arguments = ["--model=light", f"--socket={server.socket}", "--every=1000", "--timeout=120"]
    assert [probe.main(arguments), probe.main(arguments)] == [0, 0]
    assert len(server.asked) == 1
    server.dead, server.failed = True, 1
    assert probe.main(arguments) == 1
    assert "light: infer: 500: Stub process is not healthy." in capsys.readouterr().err

"""Whether a model really draws: `cascade-triton probe`, for a pod's startup, readiness and liveness.

A dead python-backend process leaves its model ready for ever, so only what it does counts. A server counts a request as
a success when the model's process has taken it. Routers bound what a model holds, so whoever takes more and more also
answers: requests that were taken since the last look are evidence enough, and only without any is the model asked for
an image. Needs the standard library only, and starts in the time that a probe may take.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

SOCKET: Final = "/tmp/triton-http"  # noqa: S108 - in a pod, a volume of its own
PROMPT: Final = "a large red circle"
"""What every model must be able to draw."""
NOT_WELL: Final = 1
OK: Final = 200


class ProbeFailed(Exception):
    """The model does not answer; the message says how."""


@dataclass(frozen=True)
class Evidence:
    """Requests counted when the model was last looked at, and the Unix second at which it last proved to work."""

    succeeded: int = -1
    failed: int = -1
    proven_s: float = 0.0


@dataclass(frozen=True)
class ProbedModel:
    """One model of a server that serves HTTP on a Unix socket; ``settings`` are a request's parameters."""

    socket: str
    name: str
    settings: Mapping[str, int | str] = field(default_factory=dict)

    def counts(self, *, timeout_s: float) -> tuple[int, int]:
        """Requests that were taken and that failed since the model was loaded; raises ProbeFailed."""
        answer = self._ask("stats", None, timeout_s=timeout_s)
        try:
            entries = json.loads(answer)["model_stats"]
            stats = [entry["inference_stats"] for entry in entries]
            return sum(s["success"]["count"] for s in stats), sum(s["fail"]["count"] for s in stats)
        except (ValueError, KeyError) as error:
            raise ProbeFailed(f"statistics that cannot be read: {error}") from None

    def draw(self, *, timeout_s: float) -> None:
        """Have it draw an image, and send only the image's score back; raises ProbeFailed."""
        request = {
            "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": [PROMPT]}],
            "outputs": [{"name": "confidence", "parameters": {"binary_data": True}}],
            "parameters": dict(self.settings),
        }
        self._ask("infer", json.dumps(request).encode(), timeout_s=timeout_s)

    def _ask(self, what: str, body: bytes | None, *, timeout_s: float) -> bytes:
        path = f"/v2/models/{self.name}/{what}"
        try:
            status, answer = request(self.socket, path, body, timeout_s=timeout_s)
        except (OSError, ValueError) as error:
            raise ProbeFailed(f"{what}: {error}") from None
        if status != OK:
            raise ProbeFailed(f"{what}: {status}: {_reason(answer)}")
        return answer


def request(server: str, path: str, body: bytes | None, *, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of one HTTP request: POST where there is a body, else GET; raises OSError or ValueError.

    Written out, since the standard library's client takes longer to import than a probe may take.
    """
    until = time.monotonic() + timeout_s
    method = "GET" if body is None else "POST"
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body or b'')}"
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(server)
        connection.sendall(head.encode() + b"\r\n\r\n" + (body or b""))
        while True:
            connection.settimeout(max(until - time.monotonic(), 0.001))
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    head_line, _, content = answer.partition(b"\r\n\r\n")
    words = head_line.split(None, 2)
    if len(words) < 2:
        raise ValueError("the server closed the connection")
    return int(words[1]), content


def look(model: ProbedModel, known: Evidence, *, every_s: float, timeout_s: float, now: float) -> Evidence:
    """What is known after one look; raises ProbeFailed where the model does not work.

    Args:
        every_s: without a success for so long, the model is asked for an image.
    """
    succeeded, failed = model.counts(timeout_s=timeout_s)
    proven = succeeded > known.succeeded >= 0 and failed == known.failed
    if proven:
        return Evidence(succeeded, failed, now)
    if failed == known.failed and 0 <= now - known.proven_s < every_s:
        return Evidence(succeeded, failed, known.proven_s)
    try:
        model.draw(timeout_s=timeout_s)
    except ProbeFailed:
        after, _ = model.counts(timeout_s=timeout_s)
        # It waited behind work that gets done, if other requests than this one were taken meanwhile.
        if after <= succeeded + 1:
            raise
    # Our own image is no evidence for the next look.
    succeeded, failed = model.counts(timeout_s=timeout_s)
    return Evidence(succeeded, failed, now)


def read_evidence(file: Path) -> Evidence:
    """What the last probe wrote; none where there was none."""
    try:
        return Evidence(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return Evidence()


def write_evidence(file: Path, evidence: Evidence) -> None:
    """Replace it atomically: probes may overlap."""
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    scratch.write_text(json.dumps(asdict(evidence)))
    scratch.replace(file)


def parser() -> argparse.ArgumentParser:
    """The command line of `cascade-triton probe`."""
    options = argparse.ArgumentParser(
        prog="cascade-triton probe", description="Fail unless the model of a running server draws images."
    )
    options.add_argument("--model", required=True, metavar="NAME", help="which model")
    options.add_argument(
        "--settings",
        type=json.loads,
        default={},
        metavar="JSON",
        help='how it is to draw, such as {"steps": 8, "guidance": "4.5"}',
    )
    options.add_argument(
        "--socket",
        default=SOCKET,
        metavar="FILE",
        help="the Unix socket on which the server serves HTTP (default: %(default)s)",
    )
    options.add_argument("--every", type=float, default=10.0, metavar="S", help="ask for an image when idle this long")
    options.add_argument("--timeout", type=float, default=10.0, metavar="S", help="longest wait for an answer")
    return options


def main(arguments: list[str]) -> int:
    """Entry point: exit code 0 where the model works, else 1 and one line that says why."""
    options = parser().parse_args(arguments)
    place = f"cascade-probe.{options.socket}.{options.model}.json".replace("/", "-")
    file = Path(tempfile.gettempdir()) / place
    try:
        evidence = look(
            ProbedModel(options.socket, options.model, options.settings),
            read_evidence(file),
            every_s=options.every,
            timeout_s=options.timeout,
            now=time.time(),
        )
    except ProbeFailed as failure:
        sys.stderr.write(f"cascade-triton probe: {options.model}: {failure}\n")
        return NOT_WELL
    write_evidence(file, evidence)
    return 0


def _reason(body: bytes) -> Any:
    """The server's own words, where it has any."""
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")

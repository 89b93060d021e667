"""Asks a cluster through the user's own kubectl: its configuration, contexts and logins apply as they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

from cascade_api.command import CommandFailed

Object = dict[str, Any]
ROUTERS: Final = "app.kubernetes.io/part-of=diffusion-cascade,app.kubernetes.io/component=router"
PORTS: Final = ("http", "grpc")
_FORWARDED: Final = re.compile(r"Forwarding from (127\.0\.0\.1:[0-9]+) -> [0-9]+")


@dataclass(frozen=True)
class Router:
    """A router's addresses on this machine, as ``HOST:PORT``."""

    http: str
    grpc: str


@dataclass(frozen=True)
class Cluster:
    """A cluster as kubectl knows it; ``options`` are kubectl's own, such as ``--context``."""

    options: Sequence[str] = ()

    def get(self, kind: str, *arguments: str) -> Object:
        """An object, or a list of them; raises CommandFailed with kubectl's message."""
        done = subprocess.run(
            self._command("get", kind, *arguments, "--output", "json"), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CommandFailed(done.stderr.strip() or f"kubectl get {kind} ended with {done.returncode}")
        found: Object = json.loads(done.stdout)
        return found

    def namespace(self) -> str:
        """The namespace of the context in use."""
        done = subprocess.run(
            self._command("config", "view", "--minify", "--output", "jsonpath={..namespace}"),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or "default"

    @contextmanager
    def router(self, named: str) -> Iterator[Router]:
        """A router's ports on this machine, inside the block.

        ``named`` is ``NAMESPACE/SERVICE``; if it is empty, the only router is meant. Raises CommandFailed.
        """
        namespace, service = _parts(named) if named else self._only_router()
        wanted = [f":{port}" for port in PORTS]
        command = self._command("port-forward", "--namespace", namespace, f"service/{service}", *wanted)
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None  # noqa: S101 - it was asked for
                addresses = _forwarded(process.stdout, count=len(PORTS))
                if len(addresses) < len(PORTS):
                    process.wait()
                    errors.seek(0)
                    raise CommandFailed(f"{namespace}/{service}: {errors.read().strip() or 'cannot be reached'}")
                # kubectl says a line for each connection, and would stand still if nobody read them.
                threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
                yield Router(*addresses)
            finally:
                process.terminate()

    def _only_router(self) -> tuple[str, str]:
        services = self.get("services", "--all-namespaces", "--selector", ROUTERS)["items"]
        found = sorted(
            (service["metadata"]["namespace"], service["metadata"]["name"])
            for service in services
            if set(PORTS) <= {port.get("name") for port in service["spec"].get("ports", [])}
        )
        if len(found) == 1:
            return found[0]
        if not found:
            raise CommandFailed("no Service of a router is in this cluster: is the chart installed?")
        names = ", ".join("/".join(each) for each in found)
        raise CommandFailed(f"--router: there are {names}; name one", code=2)

    def _command(self, *arguments: str) -> list[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise CommandFailed("kubectl is not in PATH")
        return [program, *self.options, *arguments]


def _parts(named: str) -> tuple[str, str]:
    namespace, slash, service = named.partition("/")
    if not (namespace and slash and service):
        raise CommandFailed(f"--router: {named!r} is not NAMESPACE/SERVICE", code=2)
    return namespace, service


def _forwarded(lines: IO[str], *, count: int) -> list[str]:
    """The first addresses that kubectl says it listens on, in the order of the ports; fewer if it ends before."""
    found: list[str] = []
    for line in lines:
        match = _FORWARDED.match(line)
        if match:
            found.append(match[1])
        if len(found) == count:
            break
    return found

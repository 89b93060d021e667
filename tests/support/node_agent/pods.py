"""One pod on a Node of the agent: volumes, init containers, containers, status, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from ..kube_api import Api, ApiError
from .containers import Container, Launch
from .environment import Fetch, Missing, Object, command_line, variables
from .images import Images
from .volumes import materialise, mounts_of, now

T = TypeVar("T")
RETRY_S = 0.5


@dataclass(frozen=True)
class Host:
    """What all pods of an agent share."""

    api: Api
    images: Images
    directory: Path
    executor: Executor
    server: tuple[str, str]
    """Host and port of the API server, as pods are told."""
    failures: list[BaseException] = field(default_factory=list)
    """What went wrong inside the agent; the suite fails on any."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that nobody waits for; if it fails, the error is kept."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())  # type: ignore[arg-type]

    async def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """An API call, without holding up the others."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, lambda: call(*arguments, **options))

    async def insist(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
        """The same until the server answers; None where the object is gone or is not what it was."""
        while True:
            try:
                return await self.ask(call, *arguments, **options)
            except ApiError as error:
                if error.status in (404, 409, 422):
                    return None
            except httpx.TransportError:
                pass
            await asyncio.sleep(RETRY_S)


class Pod:
    """A pod that runs; ``address`` is its IP."""

    def __init__(self, manifest: Object, *, host: Host, address: str) -> None:
        self.manifest = manifest
        self.uid = str(manifest["metadata"]["uid"])
        self.address = address
        self.containers: list[Container] = []
        self.phase = "Pending"
        self._host = host
        self._directory = host.directory / f"{manifest['metadata']['name']}-{self.uid[:8]}"
        self._folders: dict[str, Path] = {}
        self._changed = asyncio.Event()
        self._init: list[Container] = []
        self._initialised = False
        self._begun = now()
        self._since: dict[str, tuple[str, str]] = {}
        self._last: Object = {}
        self._work: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def path(self) -> str:
        metadata = self.manifest["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        self._telling = self._host.spawn(self._tell())
        self._work = self._host.spawn(self._run())

    def compare(self, seen: Object) -> None:
        """Tell the API again where another has written that the pod is not ready, or that it is."""
        told = [(c["type"], c["status"]) for c in self._last.get("conditions") or ()]
        read = {c["type"]: c["status"] for c in (seen.get("status") or {}).get("conditions") or ()}
        if any(read.get(kind, status) != status for kind, status in told):
            self._last = {}
            self._changed.set()

    def terminate(self, grace_s: float) -> None:
        """End it in good order and take it off the API; called again, it changes nothing."""
        if self._ending is None:
            self._ending = self._host.spawn(self._terminate(grace_s))

    async def abandon(self) -> None:
        """End its processes at once, without telling the API, as if the machine lost power."""
        for task in (self._telling, self._work):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(container.stop(0) for container in [*self._init, *self.containers]))
        await self._host.ask(shutil.rmtree, self._directory, ignore_errors=True)

    async def _run(self) -> None:
        spec = self.manifest["spec"]
        while True:
            try:
                self._folders = await self._host.ask(
                    materialise, self.manifest, self._directory / "volumes", api=self._host.api, fetch=self._fetch()
                )
                break
            except (Missing, ApiError, httpx.TransportError):
                await asyncio.sleep(RETRY_S)
        init_policy = "Never" if spec.get("restartPolicy") == "Never" else "OnFailure"
        for definition in spec.get("initContainers") or ():
            self._init.append(self._container(definition, init_policy))
            await self._init[-1].run()
            if self._init[-1].exit_code:
                self._finish("Failed")
                return
        self._initialised = True
        policy = spec.get("restartPolicy", "Always")
        self.containers = [self._container(definition, policy) for definition in spec["containers"]]
        self.phase = "Running"
        await asyncio.gather(*(container.run() for container in self.containers))
        self._finish("Failed" if any(container.exit_code for container in self.containers) else "Succeeded")

    def _finish(self, phase: str) -> None:
        self.phase = phase
        self._changed.set()

    async def _terminate(self, grace_s: float) -> None:
        await asyncio.gather(*(container.stop(grace_s) for container in [*self._init, *self.containers]))
        if self._work is not None:
            self._work.cancel()
        if self._telling is not None:
            self._telling.cancel()
        await self._host.insist(self._host.api.delete, self.path, grace_s=0, uid=self.uid)
        await self._host.ask(shutil.rmtree, self._directory, ignore_errors=True)

    def _container(self, definition: Object, restart: str) -> Container:
        return Container(
            definition,
            directory=self._directory,
            address=self.address,
            restart=restart,
            prepare=self._prepare,
            changed=self._changed.set,
            spawn=self._host.spawn,
        )

    async def _prepare(self, definition: Object) -> Launch:
        """Raises Missing, and KeyError where there is no such image."""
        image = self._host.images.find(definition["image"])
        name = self.manifest["metadata"]["name"]
        path = ":".join([*map(str, image.programs), "/usr/local/bin:/usr/bin:/bin"])
        # Container runtimes take HOME from the image's table of users, which has no entry for the pods' own.
        given = {"PATH": path, "HOSTNAME": name, "HOME": "/", **image.environment}
        host, port = self._host.server
        given |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        seen = {**self.manifest, "status": {"podIP": self.address, "hostIP": self.address}}
        try:
            values = await self._host.ask(variables, definition, seen, self._fetch(), given)
        except (ApiError, httpx.TransportError) as error:
            raise Missing(str(error)) from None
        mounts = mounts_of(definition, self._folders, values)
        mounts += [{"source": str(folder), "target": str(folder), "readOnly": True} for folder in image.needs]
        own = definition.get("securityContext") or {}
        return Launch(
            command=command_line(definition, list(image.entrypoint), values),
            environment=values,
            directory=definition.get("workingDir") or "/",
            mounts=mounts,
            hostname=name,
            read_only_root=own.get("readOnlyRootFilesystem", False),
            user={**(self.manifest["spec"].get("securityContext") or {}), **own}.get("runAsUser"),
        )

    def _fetch(self) -> Fetch:
        namespace = self.manifest["metadata"]["namespace"]
        return lambda kind, name: self._host.api.find(f"/api/v1/namespaces/{namespace}/{kind}/{name}")

    async def _tell(self) -> None:
        """Keep the pod's status in the API what it is here."""
        while True:
            self._changed.clear()
            status = self._status()
            if status != self._last:
                await self._host.insist(self._host.api.patch, f"{self.path}/status", {"status": status}, "strategic")
                self._last = status
            await self._changed.wait()

    def _status(self) -> Object:
        ready = self.phase == "Running" and all(container.ready for container in self.containers)
        held = {"Initialized": self._initialised, "ContainersReady": ready, "Ready": ready, "PodScheduled": True}
        status: Object = {
            "phase": self.phase,
            "hostIP": self.address,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._begun,
            "conditions": [self._condition(kind, value) for kind, value in held.items()],
            "containerStatuses": [container.status() for container in self.containers],
        }
        if self._init:
            status["initContainerStatuses"] = [container.status() for container in self._init]
        return status

    def _condition(self, kind: str, holds: bool) -> Object:
        value = str(holds)
        if self._since.get(kind, ("", ""))[0] != value:
            self._since[kind] = (value, now())
        return {"type": kind, "status": value, "lastTransitionTime": self._since[kind][1]}


def ready_status(address: str) -> Object:
    """The status of a pod that is reported as running, although it has no processes."""
    begun = now()
    kinds = ("Initialized", "ContainersReady", "Ready", "PodScheduled")
    return {
        "phase": "Running",
        "hostIP": address,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": begun,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": begun} for kind in kinds],
    }


def ready_containers(manifest: Object) -> list[Object]:
    """Its container statuses."""
    state = {"running": {"startedAt": now()}}
    return [
        {"name": c["name"], "image": c["image"], "imageID": "", "ready": True, "started": True, "restartCount": 0}
        | {"state": state}
        for c in manifest["spec"]["containers"]
    ]


def grace_of(manifest: Object) -> float:
    """Seconds that a pod being deleted has left."""
    with contextlib.suppress(TypeError):
        return float(manifest["metadata"]["deletionGracePeriodSeconds"])
    return float(manifest["spec"].get("terminationGracePeriodSeconds", 30))

"""All of local mode in one object: Redis, router, Triton servers and planner start together, and stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from cascade_api.command import CommandFailed, read_text
from cascade_api.documents import CascadeFile
from cascade_api.local import ADDRESSES_FILE, Addresses, write_addresses
from cascade_api.names import CPU_CLASS, START_TIMEOUT_S
from cascade_api.reasons import ConditionType
from cascade_api.settings import PlannerSettings, from_environment

from ..snapshot import PoolRef
from ..store import Store
from .agents import Agent
from .driver import LocalCluster
from .logs import keep_logs_bounded, log_to
from .options import LocalOptions
from .ports import check_free, free_port, parse_address
from .router_client import RouterClient
from .services import check_models, redis_program, router_program, set_up_triton, without_password
from .slots import Assignment
from .state import AlreadyRunning, Lock, StateDir
from .supervisor import Supervised, script

if TYPE_CHECKING:
    from ..loop import Loop

ROUTER_TIMEOUT_S: Final = 60.0
REDIS_TIMEOUT_S: Final = 60.0
NAMED_REDIS_TIMEOUT_S: Final = 10.0
"""How long a Redis that the user named may take for an answer that the run needs."""
READY_TIMEOUT_S: Final = START_TIMEOUT_S + 30
PROGRESS_EVERY_S: Final = 2.0
HOUSEKEEPING_EVERY_S: Final = 10.0
ROUTER_GRACE_S: Final = 2.2
REDIS_GRACE_S: Final = 0.5


class LocalStack:
    """Call `start`, and afterwards `stop`, even if `start` failed."""

    def __init__(self, options: LocalOptions, file: CascadeFile, *, say: Callable[[str], None]) -> None:
        """``say`` is called with one line for each event that the user should know at once."""
        self._options = options
        self._file = file
        self._say = say
        self._state = StateDir(options.state_dir)
        self._lock: Lock | None = None
        self._store: Store | None = None
        self._redis: Supervised | None = None
        self._router: Supervised | None = None
        self._router_client: RouterClient | None = None
        self._cluster: LocalCluster | None = None
        self._loop: Loop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Addresses:
        """Start everything and wait until prompts are answered.

        Raises CommandFailed if that is not possible; call `stop` even then.
        """
        slots = slots_of(self._file)
        _check_plans_are_made(self._file)
        options = self._options
        grpc = parse_address(options.grpc, flag="--grpc")
        http = parse_address(options.http, flag="--http")
        if grpc == http:
            raise CommandFailed(f"--grpc, --http: both are {grpc}: give one of them another port", code=2)
        settings = from_environment(PlannerSettings)
        manifest = read_text(options.manifest)
        self._take_state_dir()
        check_free(grpc, flag="--grpc")
        check_free(http, flag="--http")
        await set_up_triton(self._say)
        self._say(f"starting Redis, router and {slots} workers; state and logs in {self._state.path}")
        self._state.manifest.write_text(manifest, encoding="utf-8")
        self._state.make_sockets()
        cores = len(os.sched_getaffinity(0))
        if slots > cores:
            self._say(f"warning: {slots} slots on {cores} cores: the slots that share a core slow each other down")
        redis_url, store = await self._connect_redis()
        self._store = store
        router = router_program(grpc=grpc, http=http, redis_url=redis_url)
        router_client = self._router_client = RouterClient(str(grpc))
        self._router = Supervised(lambda: router, state=self._state, ready=router_client.alive, say=self._say)
        self._cluster = cluster = self._start_workers(slots)
        await _together(
            check_models(options.manifest),
            self._router.start(timeout_s=ROUTER_TIMEOUT_S),
            asyncio.to_thread(_import_planner),
        )
        self._start_planner(cluster, store, settings)
        await self._wait_until_served(router_client, cluster)
        addresses = Addresses(
            grpc=str(grpc), http=str(http), redis=redis_url, pid=os.getpid(), manifest=str(options.manifest.resolve())
        )
        write_addresses(self._state.path, addresses)
        return addresses

    async def stop(self) -> None:
        """End everything within 5 s, each part before those that it uses."""
        if self._lock is None:
            return
        (self._state.path / ADDRESSES_FILE).unlink(missing_ok=True)
        # Last in, first out. If one step fails, the others are still carried out.
        async with contextlib.AsyncExitStack() as steps:
            steps.callback(self._lock.release)
            steps.callback(self._state.sweep)
            if self._redis is not None:
                steps.push_async_callback(self._redis.stop, grace_s=REDIS_GRACE_S)
            if self._store is not None:
                steps.push_async_callback(self._leave_store, self._store)
            if self._cluster is not None:
                steps.push_async_callback(self._cluster.close)
            if self._router_client is not None:
                steps.push_async_callback(self._router_client.close)
            if self._router is not None:
                steps.push_async_callback(self._router.stop, grace_s=ROUTER_GRACE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _leave_store(self, store: Store) -> None:
        if self._options.redis_url is not None:
            async with Store(self._options.redis_url, timeout_s=NAMED_REDIS_TIMEOUT_S) as patient:
                await self._withdraw(patient)
        await store.close()

    async def _withdraw(self, store: Store) -> None:
        await asyncio.gather(*(store.forget(cascade.ref) for cascade in self._file.cascades))

    def _take_state_dir(self) -> None:
        self._state.prepare()
        try:
            self._lock = Lock(self._state)
        except AlreadyRunning as running:
            raise CommandFailed(
                f"already running (process {running.pid}, state in {self._state.path}): stop it with `cascade down`, "
                "or run a second one with its own --state-dir, --grpc and --http"
            ) from None
        log_to(self._state)
        for done in self._state.sweep():
            self._say(f"after an earlier crash: {done}")

    async def _connect_redis(self) -> tuple[str, Store]:
        """The URL of the named Redis, or of one that is started here; and a connection to it."""
        if self._options.redis_url is not None:
            url = self._options.redis_url
            shown = without_password(url)
            async with Store(url, timeout_s=NAMED_REDIS_TIMEOUT_S) as patient:
                answers = await patient.ping()
                if answers:
                    # The plan of an earlier run names servers that no longer exist.
                    await self._withdraw(patient)
                if patient.refusal is not None:
                    raise CommandFailed(f"--redis-url: {shown}: {patient.refusal}")
                if not answers:
                    raise CommandFailed(f"--redis-url: no Redis answers at {shown}: start it, or leave the option out")
            return url, Store(url)
        port = free_port()
        password = secrets.token_urlsafe(32)
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        store = Store(url)
        program = redis_program(port, password, self._state)
        self._redis = Supervised(lambda: program, state=self._state, ready=store.ping, say=self._say)
        await self._redis.start(timeout_s=REDIS_TIMEOUT_S)
        return url, store

    def _start_workers(self, slots: int) -> LocalCluster:
        """The slots, whose agents start while the other parts do."""
        launcher = script("cascade-triton")

        async def start_agent(slot_id: str) -> Agent:
            return await Agent.start(slot_id, launcher=launcher, state=self._state)

        def assignment_of(pool: PoolRef, weights: Sequence[str]) -> Assignment:
            using = [c for c in self._file.cascades if pool in (PoolRef.of(c.ref, each) for each in c.spec.workers)]
            return Assignment.of(pool, [(each, self._file.profile_of(each)) for each in using], weights)

        def changed() -> None:
            if self._loop is not None:
                self._loop.wake()

        return LocalCluster(
            slots=slots, assignment_of=assignment_of, start_agent=start_agent, changed=changed, say=self._say
        )

    def _start_planner(self, cluster: LocalCluster, store: Store, settings: PlannerSettings) -> None:
        from ..loop import Loop
        from ..planning.planner import Planner
        from ..sources import FileSource
        from .reporter import LocalReporter

        self._loop = loop = Loop(
            FileSource(self._file),
            cluster=cluster,
            store=store,
            decide=Planner(settings).decide,
            reporter=LocalReporter(
                say=self._say,
                keep_status=self._state.write_status,
                keep_pool_status=self._state.write_pool_status,
            ),
        )
        self._tasks += [
            asyncio.create_task(loop.run(), name="planner"),
            asyncio.create_task(self._keep_house(), name="housekeeping"),
        ]

    async def _wait_until_served(self, router: RouterClient, cluster: LocalCluster) -> None:
        """Wait until every cascade is served from all its pools; raises CommandFailed after `READY_TIMEOUT_S`."""
        names = [cascade.metadata.name for cascade in self._file.cascades]
        began = told = time.monotonic()
        while not (self._pools_available() and all([await router.serves(name) for name in names])):
            now = time.monotonic()
            hopeless = cluster.problem or self._refused()
            if hopeless is not None:
                raise CommandFailed(hopeless)
            if now - began > READY_TIMEOUT_S:
                why = self._why_not_ready()
                raise CommandFailed(f"not ready within {READY_TIMEOUT_S} s: {why}; logs: {self._state.logs}")
            if now - told > PROGRESS_EVERY_S:
                told = now
                self._say(f"waiting: {self._why_not_ready()}")
            await asyncio.sleep(0.1)

    def _pools_available(self) -> bool:
        statuses = [self._state.read_status(cascade.ref) for cascade in self._file.cascades]
        found = [status.condition(ConditionType.POOLS_AVAILABLE) for status in statuses if status is not None]
        return len(found) == len(statuses) and all(c is not None and c.status == "True" for c in found)

    def _refused(self) -> str | None:
        """Why a cascade cannot be planned; None if all can."""
        for cascade in self._file.cascades:
            status = self._state.read_status(cascade.ref)
            accepted = status.condition(ConditionType.ACCEPTED) if status is not None else None
            if accepted is not None and accepted.status == "False":
                return f"{cascade.ref}: {accepted.reason}: {accepted.message}"
        return None

    def _why_not_ready(self) -> str:
        for cascade in self._file.cascades:
            status = self._state.read_status(cascade.ref)
            if status is None:
                return f"no plan for {cascade.ref} yet"
            for condition in status.conditions:
                if condition.status != "True" and condition.message:
                    return f"{cascade.ref}: {condition.reason}: {condition.message}"
        return "the router does not serve the plan yet"

    async def _keep_house(self) -> None:
        while True:
            keep_logs_bounded(self._state)
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)


def slots_of(file: CascadeFile) -> int:
    """The number of slots for all cascades of a file; raises CommandFailed if one has no pool of class ``cpu``.

    There may be more slots than cores. Those of a WorkerPool count once.
    """
    total = sum(pool.spec.workers.max for pool in file.pools if pool.spec.accelerator_class == CPU_CLASS)
    for cascade in file.cascades:
        count = cascade.spec.accelerators.get(CPU_CLASS, 0)
        if count == 0:
            raise CommandFailed(
                f"{cascade.ref}: spec.workers: local mode has only the class {CPU_CLASS!r}: "
                "add a pool of it, and let the variants run in it",
                code=2,
            )
        total += 0 if any(each.pool is not None for each in cascade.spec.workers) else count
    return total


def _check_plans_are_made(file: CascadeFile) -> None:
    for cascade in file.cascades:
        mode = cascade.spec.policy.mode
        if mode != "auto":
            raise CommandFailed(
                f"{cascade.ref}: spec.policy.mode is {mode}, so no plan would ever be made: use auto", code=2
            )


async def _together(*work: Awaitable[object]) -> None:
    """Do everything at the same time; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _import_planner() -> None:
    """Load the libraries of the solver and of the agents' client while other parts start."""
    import aiohttp

    from .. import loop
    from ..planning import planner

    del aiohttp, loop, planner

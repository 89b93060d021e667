"""Light work beside heavy images on one worker: `make bench-sharing`. A real Triton on one core, built-in models.

One client asks for heavy images, one after the other and without a pause; another asks for light ones at random times.
The light images come from weights of their own, which are another model process on the same core, or from the same
weights by fewer steps, in the same process. Each means of sharing is measured beside the same load alone, twice, to
show the noise of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import tritonclient.grpc as triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from cascade_models import repository
from cascade_models.recipe import Settings
from support.triton import HEAVY, LIGHT, ONE_IMAGE, TritonServer, inference, render, shapes_manifest
from support.waiting import wait_for

HEAVY_SETTINGS: Final = Settings(24)
LIGHT_PER_S: Final = 10.0

COORDINATED: Final = Path(__file__).with_name("coordinated_model.py")
"""The model with turns that a coordinator grants."""


@dataclass(frozen=True)
class Case:
    """Who draws the light images, and by which settings."""

    name: str
    light: str
    settings: Settings


CASES: Final = (
    Case("two weights", LIGHT, Settings(2)),
    Case("the same weights, 2 steps", HEAVY, Settings(2)),
    Case("the same weights, 4 steps without guidance", HEAVY, Settings(4, 1.0)),
)


@dataclass
class Means:
    """How both share the core: what is changed in the repository, and what is done to the running server."""

    name: str
    prepare: Callable[[Path], None] = lambda models: None
    apply: Callable[[TritonServer], None] = lambda server: None
    coordinated: bool = False


@dataclass
class Load:
    """What clients saw: seconds of light images, from when they were due, and of heavy ones.

    ``heavy_seconds`` is the time in which heavy images were asked for, ``told_s`` what answers gave as batch_time, and
    ``light_core_s`` the processor time of the server and its models while light images alone were asked for.
    """

    light_s: list[float] = field(default_factory=list)
    heavy_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    heavy_seconds: float = 0.0
    light_core_s: float = 0.0
    parts: int = 0


def measure(server: TritonServer, case: Case, seconds: float, load: Load, *, light: bool, heavy: bool) -> None:
    """Adds so many seconds of a load."""
    before_s, began = core_s(server), time.perf_counter()
    ends = began + seconds
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(draw_heavy, server, load, ends) if heavy else None
        if light:
            ask_light(server.client, case, load, ends)
    if drawing is None:
        load.light_core_s += core_s(server) - before_s
    else:
        drawing.result()
        load.heavy_seconds += time.perf_counter() - began


def draw_heavy(server: TritonServer, load: Load, ends: float) -> None:
    """Heavy images, one after the other."""
    with triton.InferenceServerClient(server.endpoint) as client:
        while (began := time.perf_counter()) < ends:
            result = client.infer(HEAVY, **request(HEAVY_SETTINGS, len(load.heavy_s)))
            load.heavy_s.append(time.perf_counter() - began)
            load.told_s.append(float(result.as_numpy("batch_time")[0, 0]))


def ask_light(client: triton.InferenceServerClient, case: Case, load: Load, ends: float) -> None:
    """Light images at random times, the same in the same part of every load, however many are under way."""
    load.parts += 1
    chance, due, under_way = random.Random(load.parts), time.perf_counter(), threading.Semaphore(0)
    asked = 0
    failures: list[Any] = []
    while (due := due + chance.expovariate(LIGHT_PER_S)) < ends:
        time.sleep(max(0.0, due - time.perf_counter()))

        # The client calls back by keyword, so the names of these parameters count.
        def answered(result: Any, error: Any, due: float = due) -> None:
            load.light_s.append(time.perf_counter() - due)
            if error is not None:
                failures.append(error)
            under_way.release()

        client.async_infer(case.light, callback=answered, **request(case.settings, asked))
        asked += 1
    for _ in range(asked):
        under_way.acquire()
    if failures:
        raise failures[0]


def request(settings: Settings, seed: int) -> dict[str, Any]:
    outputs = [triton.InferRequestedOutput(name) for name in ("image", "confidence", "batch_time")]
    return {**inference([ONE_IMAGE], seeds=[seed], parameters=settings.parameters()), "outputs": outputs}


def core_s(server: TritonServer) -> float:
    """Processor time of the server and its models."""
    assert server.process is not None
    times = [process.cpu_times() for process in (psutil.Process(server.process.pid), *server.stubs())]
    return sum(each.user + each.system for each in times)


def nicer(server: TritonServer, level: int) -> None:
    """Gives the process of the heavy weights a lower priority, in each of its threads: Linux has it by thread."""
    for thread in Path(f"/proc/{server.stub(HEAVY).pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), level)


def one_run(models: Path) -> None:
    """Lets nobody overtake."""
    for config in models.glob("*/config.pbtxt"):
        key = 'key: "runs" value { string_value: '
        config.write_text(config.read_text().replace(f'{key}"{repository.RUNS}"', f'{key}"1"'))


def coordinate(models: Path) -> None:
    """Lets a coordinator grant each step: it listens on a socket beside the repository."""
    for shim in models.glob("*/1/model.py"):
        shim.write_text(COORDINATED.read_text())


MEANS: Final = {
    "two weights": (
        Means("nothing but the operating system"),
        Means("heavy process at nice 5", apply=lambda server: nicer(server, 5)),
        Means("heavy process at nice 19", apply=lambda server: nicer(server, 19)),
        Means("coordinator of turns", coordinate, coordinated=True),
    ),
    "the same weights": (
        Means("one run at a time", one_run),
        Means("short runs overtake"),
    ),
}


@contextmanager
def served(means: Means, core: int) -> Iterator[TritonServer]:
    """A server on one core."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        render(shapes_manifest(), models)
        means.prepare(models)
        coordinator = None
        if means.coordinated:
            command = ["taskset", "-c", str(core), sys.executable, str(COORDINATED), f"{folder}/turns"]
            coordinator = subprocess.Popen(command)
            wait_for(Path(folder, "turns").exists, what="the coordinator to listen")
        server = TritonServer(models, Path(folder), load=(LIGHT, HEAVY), replica_id=f"bench-{means.name.split()[0]}")
        try:
            server.start("--core", str(core))
            means.apply(server)
            yield server
        finally:
            server.stop()
            if coordinator is not None:
                coordinator.kill()
                coordinator.wait()


def quantiles(times: Sequence[float]) -> tuple[float, float]:
    p50, p99 = np.quantile(times, (0.5, 0.99))
    return float(p50), float(p99)


def rows(case: Case, seconds: float, rounds: int, core: int) -> Iterator[str]:
    """A table of one case. The rows are measured in turns, so that what others do on the machine hits all of them."""
    ways = MEANS["two weights" if case.light == LIGHT else "the same weights"]
    alone, again, beside = Load(), Load(), {means.name: Load() for means in ways}
    with ExitStack() as stack:
        servers = {means.name: stack.enter_context(served(means, core)) for means in ways}
        first = servers[ways[0].name]
        for server in servers.values():
            measure(server, case, 2, Load(), light=True, heavy=True)
        for _ in range(rounds):
            for load in (alone, again):
                measure(first, case, seconds / rounds, load, light=True, heavy=False)
                measure(first, case, seconds / rounds, load, light=False, heavy=True)
            for name, load in beside.items():
                measure(servers[name], case, seconds / rounds, load, light=True, heavy=True)
    base50, base99 = quantiles(alone.light_s)
    light_core_s = alone.light_core_s / len(alone.light_s)
    base_rate, base_told = len(alone.heavy_s) / alone.heavy_seconds, float(np.median(alone.told_s))

    yield "| means | light p50, ms | light p99, ms | to alone | heavy a second | beyond light work | heavy batch_time |"
    yield "|---|---|---|---|---|---|---|"
    for name, load in {"alone (baseline)": alone, "alone, again": again, **beside}.items():
        p50, p99 = quantiles(load.light_s)
        rate = len(load.heavy_s) / load.heavy_seconds
        # The part of the time that light images need of the core, as measured alone.
        part = light_core_s * len(load.light_s) / load.heavy_seconds if name in beside else 0.0
        cells = [
            name,
            f"{1000 * p50:.1f}",
            f"{1000 * p99:.1f}",
            f"{p50 / base50:.2f} / {p99 / base99:.2f}",
            f"{rate:.2f}",
            f"{100 * (base_rate * (1 - part) / rate - 1):+.1f} %",
            f"{float(np.median(load.told_s)) / base_told:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"Light work: {100 * light_core_s * LIGHT_PER_S:.1f} % of the core, {len(alone.light_s)} images a row."


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each load lasts")
    parser.add_argument("--rounds", type=int, default=6, help="in how many parts")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="only this case")
    options = parser.parse_args()
    core, *others = sorted(os.sched_getaffinity(0), reverse=True)
    if others:
        os.sched_setaffinity(0, others)
    for number, case in enumerate(CASES):
        if options.case in (None, number):
            print(f"\n## {case.name}: light {case.settings}, {LIGHT_PER_S:g} a second; load {os.getloadavg()[0]:.1f}\n")
            for line in rows(case, options.seconds, options.rounds, core):
                print(line, flush=True)


if __name__ == "__main__":
    main()

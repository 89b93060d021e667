"""Starts a Triton server for measurements, in the same way as a replica runs, sends it requests, and stops it."""

from __future__ import annotations

import itertools
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from typing_extensions import Self

from cascade_api.command import CommandFailed
from cascade_api.names import (
    GRPC_UNBOUNDED,
    INPUT_PROMPT,
    INPUT_SEED,
    OUTPUT_BATCH_TIME,
    OUTPUT_CONFIDENCE,
    OUTPUT_IMAGE,
    PROBE_PROMPT,
)
from cascade_models import launcher
from cascade_models.recipe import Settings
from cascade_operator.local.triton import why_not_loaded

from .workload import Workload

START_TIMEOUT_S = 1800.0
"""Longest time of a start: weights may have to be fetched, and engines built. A server that ends is noticed at once."""
ANSWER_TIMEOUT_S = 600.0
"""A large model may take minutes for a large batch."""
LOOK_S = 1.0
"""How often to check whether a model that does not answer still has a process."""
WAITING_BATCHES = 3
_numbers = itertools.count(1)
MEMORY_WORDS = re.compile(
    r"out of memory|outofmemory|memoryerror|bad_alloc|(failed|cannot|unable) to allocate|stub process .*not healthy",
    re.IGNORECASE,
)
"""Messages of servers and libraries if memory runs out; the last is Triton's if the kernel killed a model's process."""


class ReplicaOutOfMemory(CommandFailed):
    """A batch did not fit into memory."""


@dataclass(frozen=True)
class GeneratedImages:
    """Images ``[n, height, width, 3]`` of one request, and confidences ``[n]`` if requested."""

    images: npt.NDArray[np.uint8]
    confidences: npt.NDArray[np.float32] | None


class MeasuredReplica:
    """A server on a Unix socket; a context manager. Raises CommandFailed if it does not start or answer."""

    def __init__(self, repository: Path, *, core: int | None, load: Sequence[str] = ()) -> None:
        self._repository = repository
        self._core = core
        self._load = load
        self._id = f"profile-{os.getpid()}"
        # Whoever reaches the socket controls the server, so it is in a folder that others cannot enter.
        self._folder = tempfile.TemporaryDirectory(prefix="cascade-profile-")
        self._address = launcher.ServerAddress(f"unix:{self._folder.name}/triton", next(_numbers))
        self._log = repository.with_name(f"{repository.name}-{self._address.port}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        command = str(Path(sys.executable).parent / "cascade-triton")
        where = ["--model-repository", str(self._repository), "--grpc-address", self._endpoint]
        what = ["--replica-id", self._id, "--die-with-parent"]
        what += [] if self._core is None else ["--core", str(self._core)]
        loads = [word for model in self._load for word in ("--load", model)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([command, *where, *what, *loads], stdout=log, stderr=log)
        self._pid = self._process.pid
        try:
            self._wait_for_socket()
            self._client = triton.InferenceServerClient(self._endpoint, channel_args=GRPC_UNBOUNDED)
            while not self._client.is_server_ready():
                self._check(time.monotonic() + 1)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client.close()
        self._end()

    def load(self, model: str) -> None:
        """Load a model of the repository."""
        with _clear(f"{model} cannot be loaded"):
            self._client.load_model(model)

    def unload(self, model: str) -> None:
        """Unload a model; requests that it has begun are still answered."""
        self._client.unload_model(model)

    def probe(self, model: str, settings: Settings) -> None:
        """Request one image, to check that the model works."""
        self.ask(model, settings, [PROBE_PROMPT], [0])

    def ask(
        self, model: str, settings: Settings, prompts: Sequence[str], seeds: Sequence[int], *, confidence: bool = False
    ) -> GeneratedImages:
        """Send one request for an image per prompt."""
        request = inference(prompts, seeds, settings.parameters(), confidence=confidence)
        with _clear(f"{model} failed"):
            result = self._client.infer(model, **request, client_timeout=ANSWER_TIMEOUT_S)
        judged = result.as_numpy(OUTPUT_CONFIDENCE)
        return GeneratedImages(result.as_numpy(OUTPUT_IMAGE), None if judged is None else judged[:, 0])

    def memory_mib(self, model: str) -> int:
        """Resident memory of the server and of one model's process, in MiB."""
        kib = 0
        for process in (self._pid, *self._processes(model)):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    kib += int(line.split()[1])
        return round(kib / 1024)

    def time_batches(
        self, model: str, settings: Settings, workload: Workload, *, batch: int, count: int, confidence: bool
    ) -> list[float] | None:
        """``count`` times in seconds from the end of one batch to the end of the next, while more batches are waiting.

        This is all the time that a busy replica needs per batch. The replica forms the batches from requests for one
        prompt each, as routers send them. None if it formed too few batches
        of that size in a row.
        """
        ends: queue.SimpleQueue[tuple[float, Any, Any]] = queue.SimpleQueue()

        # The client passes these parameters by name.
        def answered(result: Any, error: Any) -> None:
            ends.put((time.perf_counter(), result, error))

        # The first batch is begun when the first request comes, and the last one holds what is left.
        asked = (count + 3) * batch
        answers: list[tuple[float, Any]] = []
        for number, (prompt, seed) in enumerate(zip(*workload.slice(0, asked), strict=True)):
            if number >= WAITING_BATCHES * batch:
                answers.append(self._answer(model, ends))
            request = inference([prompt], [seed], settings.parameters(), confidence=confidence, batch_time=True)
            self._client.async_infer(model, callback=answered, **request)
        while len(answers) < asked:
            answers.append(self._answer(model, ends))
        batches: list[tuple[float, int]] = []
        at = 0
        while at < asked:
            # The answers of a batch come together, and each says how many images it held.
            size = int(answers[at][1].as_numpy(OUTPUT_BATCH_TIME)[0, 1])
            at += size
            batches.append((answers[min(at, asked) - 1][0], size))
        # From the end of any batch to that of the next, where that is of the size.
        took = [end - before for (before, _), (end, size) in itertools.pairwise(batches) if size == batch]
        return took[:count] if len(took) >= count else None

    def _answer(self, model: str, ends: queue.SimpleQueue[tuple[float, Any, Any]]) -> tuple[float, Any]:
        """When the next answer came, and what it is; nobody answers for what a process had in hand that died."""
        until = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            try:
                end, result, error = ends.get(timeout=LOOK_S)
            except queue.Empty:
                if not self._processes(model):
                    raise _failure(f"{model} failed", "stub process ended, it is not healthy") from None
                if time.monotonic() > until:
                    raise CommandFailed(f"{model} did not answer in {ANSWER_TIMEOUT_S:.0f} s") from None
                continue
            if error is not None:
                raise _failure(f"{model} failed", str(error))
            return end, result

    def _processes(self, model: str) -> list[str]:
        """The process ids of a model."""
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        return [pid for pid in children if f"/{model}/" in Path(f"/proc/{pid}/cmdline").read_text()]

    @property
    def _endpoint(self) -> str:
        return f"{self._address.host}:{self._address.port}"

    def _wait_for_socket(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            # A gRPC channel whose first try fails would wait a second before the next.
            with socket.socket(socket.AF_UNIX) as trial:
                if trial.connect_ex(self._endpoint.removeprefix("unix:")) == 0:
                    return
            self._check(until)
            time.sleep(0.01)

    def _check(self, until_s: float) -> None:
        if self._process is not None and self._process.poll() is None and time.monotonic() < until_s:
            return
        said = self._log.read_text(errors="replace").strip()
        if why := why_not_loaded(said):
            raise _failure(f"{', '.join(self._load)} cannot be loaded", why)
        raise CommandFailed(f"Triton did not start: {said.splitlines()[-1] if said else 'no output'}")

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # A model process that died leaves its memory behind.
        launcher.sweep_shared_memory(launcher.shared_memory_prefix(self._id, self._address))
        self._folder.cleanup()


def inference(
    prompts: Sequence[str],
    seeds: Sequence[int],
    parameters: Mapping[str, int | str],
    *,
    confidence: bool = False,
    batch_time: bool = False,
) -> dict[str, Any]:
    """Arguments for a client's ``infer`` or ``async_infer``: an image per prompt; ``parameters`` are the settings."""
    words = triton.InferInput(INPUT_PROMPT, [len(prompts), 1], "BYTES")
    words.set_data_from_numpy(np.array([prompt.encode() for prompt in prompts], dtype=np.object_).reshape(-1, 1))
    numbers = triton.InferInput(INPUT_SEED, [len(seeds), 1], "INT64")
    numbers.set_data_from_numpy(np.array(seeds, dtype=np.int64).reshape(-1, 1))
    further = {OUTPUT_CONFIDENCE: confidence, OUTPUT_BATCH_TIME: batch_time}
    names = [OUTPUT_IMAGE, *(name for name, wanted in further.items() if wanted)]
    return {
        "inputs": [words, numbers],
        "outputs": [triton.InferRequestedOutput(name) for name in names],
        "parameters": dict(parameters),
    }


@contextmanager
def _clear(what: str) -> Iterator[None]:
    """Turn an error of the server into a message of one line for the user."""
    try:
        yield
    except InferenceServerException as error:
        said = str(error.message())
        raise _failure(what, why_not_loaded(said) or said) from None


def _failure(what: str, message: str) -> CommandFailed:
    kind = ReplicaOutOfMemory if MEMORY_WORDS.search(message) else CommandFailed
    return kind(f"{what}: {message}")

"""Light work beside heavy images on one GPU: `python -m bench.gpu.sharing --out FOLDER`.

Two denoisers of SDXL size with random weights at 1024²: the heavy one draws images without a pause, 30 guided steps
each; the light one is asked for an image of 4 steps without guidance twice a second, at random times. Each means of
running them side by side is compared with the same work on a GPU of its own, in the same run: how much later light
images come (p50, p99), and how much slower heavy ones are drawn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.architectures import GUIDED, architectures

LIGHT_STEPS, HEAVY_STEPS = 4, 30
LIGHT_PER_S = 2.0
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Shared:
    """What one means gave: times of light images, from the moment they were asked for, and of heavy ones, seconds."""

    means: str
    light_s: Sequence[float]
    heavy_s: Sequence[float]


class Painter:
    """One denoiser on the GPU, with a stream of its own."""

    def __init__(self, rows: int, *, priority: int = 0, smoke: bool = False) -> None:
        architecture = architectures(smoke=smoke)[1]
        torch.manual_seed(0)
        self._device = torch.device("cpu" if smoke else "cuda")
        self._dtype = torch.float32 if smoke else torch.bfloat16
        with self._device:
            self._network = architecture.make().to(self._dtype).eval().requires_grad_(False)
        self._arguments = self._moved(architecture.call(rows))
        self._stream = None if smoke else torch.cuda.Stream(priority=priority)

    def draw(self, steps: int, turn: Callable[[], None] = lambda: None) -> None:
        """One image; ``turn`` is called before each step. Returns when the GPU is done with it."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(steps):
                turn()
                self._network(**self._arguments, return_dict=False)
                if self._stream is not None:
                    # As a scheduler does whose next step depends on this one; and nothing is queued ahead of others.
                    self._stream.synchronize()

    def _moved(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._moved(part) for key, part in value.items()}
        return value.to(self._device) if value.ndim < 2 else value.to(self._device, self._dtype)


def light(painter: Painter, seconds: float, wanted: Callable[[bool], None] = lambda _: None) -> list[float]:
    """Times of light images that are asked for at random, one drawn at a time; ``wanted`` says when some are."""
    random = np.random.default_rng(0)
    took, began = [], time.perf_counter()
    due = began
    while (due := due + random.exponential(1 / LIGHT_PER_S)) < began + seconds or not took:
        time.sleep(max(0.0, due - time.perf_counter()))
        wanted(True)
        painter.draw(LIGHT_STEPS)
        wanted(False)
        took.append(time.perf_counter() - due)
    return took


def heavy(painter: Painter, over: Any, turn: Callable[[], None] = lambda: None) -> list[float]:
    """Times of heavy images, drawn one after the other until ``over`` is set."""
    took = []
    while not over.is_set() or not took:
        began = time.perf_counter()
        painter.draw(HEAVY_STEPS, turn)
        took.append(time.perf_counter() - began)
    return took


def threads(means: str, seconds: float, *, priority: int, turns: bool, smoke: bool) -> Shared:
    """Both in one process; with ``turns`` no heavy step begins while light work is there."""
    small = Painter(1, priority=priority, smoke=smoke)
    large = Painter(GUIDED, smoke=smoke)
    for painter in (small, large):
        painter.draw(2)
    free, over = threading.Event(), threading.Event()
    free.set()
    heavy_s: list[float] = []
    wait: Callable[[], Any] = free.wait if turns else lambda: None
    beside = threading.Thread(target=lambda: heavy_s.extend(heavy(large, over, wait)))
    beside.start()
    light_s = light(small, seconds, lambda there: free.clear() if there else free.set())
    over.set()
    beside.join()
    return Shared(means, light_s, heavy_s)


def _heavy_process(ready: Any, over: Any, free: Any, results: Any, smoke: bool) -> None:
    painter = Painter(GUIDED, smoke=smoke)
    painter.draw(2)
    ready.set()
    results.put(heavy(painter, over, free.wait))


@contextmanager
def _beside(free: Any, smoke: bool) -> Iterator[Callable[[], list[float]]]:
    ready, over, results = _SPAWN.Event(), _SPAWN.Event(), _SPAWN.Queue()
    process = _SPAWN.Process(target=_heavy_process, args=(ready, over, free, results, smoke))
    process.start()

    def ended() -> list[float]:
        over.set()
        return list(results.get(timeout=120))

    try:
        if not ready.wait(timeout=300):
            raise RuntimeError("the heavy process did not become ready")
        yield ended
    finally:
        over.set()
        process.join()


def processes(means: str, seconds: float, *, turns: bool, smoke: bool) -> Shared:
    """Each in a process of its own, as two model processes of a Triton are: the driver slices time between them.

    With ``turns`` no heavy step begins while light work is there.
    """
    small = Painter(1, smoke=smoke)
    small.draw(2)
    free = _SPAWN.Event()
    free.set()

    def wanted(there: bool) -> None:
        if turns and there:
            free.clear()
        else:
            free.set()

    with _beside(free, smoke) as ended:
        light_s = light(small, seconds, wanted)
        return Shared(means, light_s, ended())


def alone(seconds: float, *, smoke: bool) -> Shared:
    """Each with the GPU to itself."""
    small = Painter(1, smoke=smoke)
    small.draw(2)
    light_s = light(small, seconds)
    large = Painter(GUIDED, smoke=smoke)
    large.draw(2)
    over = threading.Event()
    threading.Timer(seconds / 2, over.set).start()
    return Shared("a GPU each (baseline)", light_s, heavy(large, over))


def table(measured: Sequence[Shared]) -> str:
    """Markdown: times, and ratios to the first, which is the baseline."""
    lines = ["| means | light p50, ms | light p99, ms | p50 / baseline | heavy, s | heavy / baseline |"]
    lines.append("|---|---|---|---|---|---|")
    base = [statistics.median(times) for times in (measured[0].light_s, measured[0].heavy_s)]
    for one in measured:
        p50, p99 = (1000 * float(np.quantile(one.light_s, q)) for q in (0.5, 0.99))
        mean = statistics.median(one.heavy_s)
        lines.append(
            f"| {one.means} | {p50:.0f} | {p99:.0f} | {p50 / base[0] / 1000:.2f} | {mean:.2f} | {mean / base[1]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="bench.gpu.sharing", description=__doc__)
    options.add_argument("--out", type=Path, help="folder for sharing.md")
    options.add_argument("--seconds", type=float, default=20.0, help="how long each means is measured")
    options.add_argument("--smoke", action="store_true", help="tiny networks on the CPU, to see that all of it runs")
    chosen = options.parse_args()
    seconds, smoke = chosen.seconds, chosen.smoke
    name = "cpu" if smoke else torch.cuda.get_device_name()
    measured: list[Shared] = []
    for measure in (
        lambda: alone(seconds, smoke=smoke),
        lambda: processes("a process each", seconds, turns=False, smoke=smoke),
        lambda: processes("a process each, heavy steps wait for light work", seconds, turns=True, smoke=smoke),
        lambda: threads("one process", seconds, priority=0, turns=False, smoke=smoke),
        lambda: threads("one process, light work's stream first", seconds, priority=-1, turns=False, smoke=smoke),
        lambda: threads("one process, heavy steps wait for light work", seconds, priority=0, turns=True, smoke=smoke),
    ):
        measured.append(measure())
        text = f"Device: {name}; torch {torch.__version__}; {seconds:g} s each\n\n{table(measured)}"
        if chosen.out is not None:
            # A run that is cut short has not been for nothing.
            chosen.out.mkdir(parents=True, exist_ok=True)
            (chosen.out / "sharing.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

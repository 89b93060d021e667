"""Speed of the engines on this machine's GPU, without a network: `make bench-gpu ARGS="--out FOLDER"`.

Denoisers of SD 1.5, SDXL and SD3.5 Medium size with random weights, batches of 1 to 16 images with classifier-free
guidance, in bf16 and fp16: torch as it is, torch compiled, and where they are installed ONNX Runtime on CUDA and
TensorRT, all through the code that serves. Prints a table of the arithmetic achieved against the GPU's peak, and writes
it beside a CascadeProfile. What does not fit into memory is left out and said.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu.architectures import GUIDED, Architecture, Arguments, architectures
from bench.gpu.peaks import peak_tflops
from cascade_api.profile import CascadeProfile
from cascade_models import catalogue, engines
from cascade_models.engines import denoisers

ENGINES = ("eager", "compiled", "onnxruntime", "tensorrt")
BATCHES = (1, 2, 4, 8, 16)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
QUALITY = "size"


@dataclass(frozen=True)
class Cell:
    """One step of a denoiser at one batch size."""

    variant: str
    engine: str
    dtype: str
    batch: int
    step_s: tuple[float, ...]
    decode_s: float
    flops: int
    memory_mib: int

    @property
    def tflops(self) -> float:
        """Arithmetic achieved."""
        return self.flops / statistics.median(self.step_s) / 1e12

    def image_s(self, steps: int, quantile: float) -> float:
        """Seconds of one batch: all its steps and the decoding."""
        ordered = sorted(self.step_s)
        return steps * ordered[min(len(ordered) - 1, round(quantile * (len(ordered) - 1)))] + self.decode_s


class Bench:
    """Times one architecture in one number format."""

    def __init__(self, architecture: Architecture, dtype: str, device: torch.device, *, repeats: int) -> None:
        self._architecture, self._dtype, self._device, self._repeats = architecture, dtype, device, repeats
        torch.manual_seed(0)
        with device:
            self._denoiser = self._on_device(architecture.make())
            self._decoder = self._on_device(architecture.decoder())

    def cells(self, engine: str, batches: Sequence[int], *, resume: Callable[[], object]) -> Iterator[Cell]:
        """The cells of an engine up to the batch that does not fit; raises EngineError where it cannot run at all."""
        self._install(engine, max(batches))
        for batch in batches:
            try:
                yield self._cell(engine, batch)
            except RuntimeError as error:
                if not engines.is_out_of_memory(error):
                    raise
                _say(f"{self._architecture.variant} {self._dtype} {engine}: out of memory at batch {batch}")
                resume()
                return

    def _cell(self, engine: str, batch: int) -> Cell:
        arguments = self._arguments(batch)
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        channels, height, width = self._architecture.latents
        latents = torch.randn(batch, channels, height, width).to(self._device, DTYPES[self._dtype])
        with torch.inference_mode():
            step_s = self._times(lambda: self._denoiser(**arguments, return_dict=False))
            decode_s = self._times(lambda: self._decoder.decode(latents, return_dict=False))
        memory = torch.cuda.max_memory_allocated() >> 20 if cuda else 0
        return Cell(
            self._architecture.variant, engine, self._dtype, batch, tuple(step_s), statistics.median(decode_s),
            self.flops * batch, memory,
        )  # fmt: skip

    def _times(self, run: Callable[[], object]) -> list[float]:
        taken = []
        for _ in range(3 + self._repeats):
            began = time.perf_counter()
            run()
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        return taken[3:]

    def count(self) -> None:
        """Count the operations of one image's step; before an engine takes the denoiser over."""
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self._denoiser(**self._arguments(1), return_dict=False)
        self.flops = counter.get_total_flops()

    def _install(self, engine: str, largest: int) -> None:
        self.count()
        if engine == "eager":
            return
        if engine == "compiled" and self._device.type != "cuda":
            raise engines.EngineError("torch is compiled on a GPU only")
        identity = {
            "bench": self._architecture.variant, "dtype": self._dtype, "torch": torch.__version__,
            "latents": self._architecture.latents, "device": str(self._device),
        }  # fmt: skip
        denoiser = denoisers.PipelineDenoiser(self._denoiser, identity, largest, self._draw)
        denoisers.run_by("diffusers" if engine == "compiled" else engine, denoiser, self._device)

    def _draw(self, batch: int) -> None:
        with torch.inference_mode():
            self._denoiser(**self._arguments(batch))

    def _arguments(self, batch: int) -> Arguments:
        return _moved(self._architecture.call(GUIDED * batch), self._device, DTYPES[self._dtype])

    def _on_device(self, network: torch.nn.Module) -> torch.nn.Module:
        return network.to(self._device, DTYPES[self._dtype]).eval().requires_grad_(False)


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: _moved(part, device, dtype) for key, part in value.items()}
    # Timesteps stay as precise as schedulers give them.
    return value.to(device) if value.ndim < 2 else value.to(device, dtype)


def table(cells: Sequence[Cell], device: str) -> str:
    """The table of arithmetic against peak, in Markdown."""
    peak = peak_tflops(device)
    lines = [
        f"Device: {device}; torch {torch.__version__}; peak "
        + (f"{peak:g} TFLOP/s dense bf16/fp16" if peak else "not known"),
        "",
        "| model | engine | format | batch | step, ms | image, s | TFLOP/s | of peak | memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        steps = catalogue.entries()[cell.variant].steps
        share = f"{cell.tflops / peak:.0%}" if peak else "-"
        lines.append(
            f"| {cell.variant} | {cell.engine} | {cell.dtype} | {cell.batch} | "
            f"{1000 * statistics.median(cell.step_s):.2f} | {cell.image_s(steps, 0.5) / cell.batch:.3f} | "
            f"{cell.tflops:.3g} | {share} | {cell.memory_mib} |"
        )
    return "\n".join(lines) + "\n"


def profile(cells: Sequence[Cell], accelerator_class: str) -> CascadeProfile:
    """A CascadeProfile of the fastest engine and format of each model.

    Random weights have no quality: the denoiser's size stands in its place, and the metric says so.
    """
    known = catalogue.entries()
    best: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        at = (cell.variant, cell.batch)
        if at not in best or cell.tflops > best[at].tflops:
            best[at] = cell
    execution = [
        {
            "variant": name, "class": accelerator_class, "size": f"{known[name].width}x{known[name].height}",
            "batch": batch, "memoryMiB": cell.memory_mib,
            "p50Micros": max(1, round(1e6 * cell.image_s(known[name].steps, 0.5))),
            "p95Micros": max(1, round(1e6 * cell.image_s(known[name].steps, 0.95))),
        }
        for (name, batch), cell in sorted(best.items())
    ]  # fmt: skip
    names = sorted({name for name, _ in best}, key=lambda name: known[name].parameters_millions["denoiser"])
    sizes = {name: 1000 * known[name].parameters_millions["denoiser"] for name in names}
    quality = [
        {
            "chain": [light, heavy], "directPercent": direct, "escalationPercent": escalation,
            "valuesMilli": {QUALITY: sizes[heavy] if direct or escalation else sizes[light]},
        }
        for place, light in enumerate(names) for heavy in names[place + 1 :]
        for direct in (0, 100) for escalation in (0, 100)
    ]  # fmt: skip
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    meaning = "millions of parameters of the denoiser, in place of a quality: the weights are random"
    spec = {
        "source": {"kind": "measured", "tool": "tests/bench/gpu", "time": now},
        "metrics": [{"name": QUALITY, "direction": "max", "meaning": meaning}],
        "objectiveMetric": QUALITY,
        "execution": execution,
        "quality": quality,
    }  # fmt: skip
    return CascadeProfile.model_validate({"metadata": {"name": f"gpu-{accelerator_class}"}, "spec": spec})


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    options.add_argument("--out", type=Path, help="folder for table.md and profile.yaml")
    options.add_argument("--smoke", action="store_true", help="tiny networks on the CPU, to see that all of it runs")
    options.add_argument("--engines", default=",".join(ENGINES))
    options.add_argument("--batches", default=",".join(map(str, BATCHES)))
    options.add_argument("--dtypes", default="bf16,fp16")
    options.add_argument("--repeats", type=int, default=20, help="timed steps of each cell")
    options.add_argument("--class-name", default="", help="accelerator class of the profile (default: from the device)")
    chosen = options.parse_args()
    if not chosen.smoke and not torch.cuda.is_available():
        sys.exit("bench.gpu: there is no GPU here: run it where there is one, or with --smoke")
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device("cpu" if chosen.smoke else "cuda")
    name = "cpu" if chosen.smoke else torch.cuda.get_device_name()
    batches = [1, 2] if chosen.smoke else [int(size) for size in chosen.batches.split(",")]
    cells: list[Cell] = []
    for architecture in architectures(smoke=chosen.smoke):
        for dtype in ["fp32"] if chosen.smoke else chosen.dtypes.split(","):
            for engine in chosen.engines.split(","):
                try:
                    bench = Bench(architecture, dtype, device, repeats=2 if chosen.smoke else chosen.repeats)
                    for cell in bench.cells(engine, batches, resume=_free):
                        cells.append(cell)
                        _say(f"{cell.variant} {dtype} {engine} batch {cell.batch}: {cell.tflops:.3g} TFLOP/s")
                except (engines.EngineError, ImportError) as error:
                    _say(f"{architecture.variant} {dtype} {engine}: left out: {error}")
                finally:
                    _free()
                if chosen.out is not None and cells:
                    write(cells, name, chosen.out, chosen.class_name or "-".join(name.lower().split()[:2]))
    if not cells:
        sys.exit("bench.gpu: nothing could be measured, see above")
    print(table(cells, name))


def write(cells: Sequence[Cell], device: str, folder: Path, accelerator_class: str) -> None:
    """Table and profile of what has been measured so far: a run that is cut short has not been for nothing.

    A profile compares models, so it needs two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table(cells, device))
    if len({cell.variant for cell in cells}) < 2:
        return
    wire = profile(cells, accelerator_class).wire()
    (folder / "profile.yaml").write_text(yaml.safe_dump(wire, sort_keys=False))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _free() -> None:
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

"""A whole cascade with random weights on this machine's GPU: `python -m bench.gpu.serving --out FOLDER`.

Writes a StableDiffusionXLPipeline of full size (1024², bf16; how long it takes does not depend on its weights), times
diffusers alone with it as the baseline, and then does what a user does: `cascade up`, `generate`, `load`, `down`. Two
Triton servers share the GPU, one for the variant of 4 steps and one for that of 30. CASCADE_TRITON_ENV names an
environment with nvidia-pytriton, torch and diffusers; `--cascade` the command of one with the product.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.gpu.architectures import architectures
from cascade_api.names import API_VERSION, CPU_CLASS
from support.tiny_diffusion import judge, tokenizer

STEPS = {"light": 4, "heavy": 30}


def pipeline(*, smoke: bool) -> StableDiffusionXLPipeline:
    """SDXL's denoiser and decoder; the text encoders have its widths but two layers, prompts are read by letters."""
    torch.manual_seed(0)
    architecture = architectures(smoke=smoke)[1]
    unet, vae = architecture.make(), architecture.decoder()
    with tempfile.TemporaryDirectory() as scratch:
        words = tokenizer(Path(scratch))
    pooled = 32 if smoke else 1280
    width = unet.config.cross_attention_dim - pooled

    def text(size: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(words), hidden_size=size, intermediate_size=2 * size, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=words.model_max_length, projection_dim=pooled,
            bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        )  # fmt: skip

    return StableDiffusionXLPipeline(
        vae=vae, text_encoder=CLIPTextModel(text(width)), text_encoder_2=CLIPTextModelWithProjection(text(pooled)),
        tokenizer=words, tokenizer_2=words, unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
    )  # fmt: skip


def alone(pipe: Any, side: int, repeats: int) -> dict[str, float]:
    """Median seconds of an image by diffusers alone, by variant."""
    pipe.set_progress_bar_config(disable=True)
    medians = {}
    for name, steps in STEPS.items():
        taken = []
        for _ in range(1 + repeats):
            began = time.perf_counter()
            pipe("a lighthouse at dusk", num_inference_steps=steps, height=side, width=side)
            taken.append(time.perf_counter() - began)
        medians[name] = statistics.median(taken[1:])
    return medians


def manifest(folder: Path, revision: str, side: int, latency: str) -> str:
    """A cascade of both variants. Class `cpu` is the one that local mode has: this machine, whatever it holds."""
    variants = [
        {
            "name": name,
            "model": {"source": f"file://{folder / 'model'}", "revision": revision},
            "settings": {"steps": steps},
            "engine": "diffusers",
        }
        for name, steps in STEPS.items()
    ]
    spec = {
        "objective": {"latency": latency, "attainmentPercent": 95},
        "profileRef": {"name": "random"},
        "variants": variants,
        "discriminator": {"source": f"file://{folder / 'judge'}"},
        "workers": [{"name": "gpu", "class": CPU_CLASS, "max": 2}],
        "sizes": [f"{side}x{side}"],
    }
    return yaml.safe_dump(
        {
            "apiVersion": API_VERSION,
            "kind": "DiffusionCascade",
            "metadata": {"name": "random"},
            "spec": spec,
        },
        sort_keys=False,
    )


class Commands:
    """Runs `cascade` and prints what it is asked to do."""

    def __init__(self, command: str, state: Path) -> None:
        self._command, self._state = command, state

    def __call__(self, *arguments: str | Path, local: bool = False) -> str:
        words = [self._command, *map(str, arguments), *(["--state-dir", str(self._state)] if local else [])]
        _say(" ".join(words))
        began = time.monotonic()
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        _say(f"  {time.monotonic() - began:.1f} s")
        if done.returncode != 0:
            for log in sorted(self._state.rglob("*.log")):
                _say(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}")
            sys.exit(f"bench.gpu.serving: {words[1]} failed: {done.stdout[-2000:]}")
        return done.stdout


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="bench.gpu.serving", description=__doc__)
    options.add_argument("--cascade", default="cascade", help="the command")
    options.add_argument("--out", type=Path, required=True, help="folder for serving.md, the profile and two pictures")
    options.add_argument("--smoke", action="store_true", help="tiny networks on the CPU, to see that all of it runs")
    options.add_argument("--latency", default="10s")
    options.add_argument("--rate", default="1")
    options.add_argument("--duration", default="30s")
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="random-cascade-"))
    try:
        _run(chosen, folder)
    finally:
        shutil.rmtree(folder)


def _run(chosen: argparse.Namespace, folder: Path) -> None:
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if chosen.smoke else "cuda")
    with device:
        pipe = pipeline(smoke=chosen.smoke).to(device, torch.float32 if chosen.smoke else torch.bfloat16)
    # Schedulers compute on the CPU.
    pipe.scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pipe.save_pretrained(folder / "model", safe_serialization=True)
    judge(folder / "judge")
    _say(f"written: {folder}")
    baseline = alone(pipe, side, 1)
    _say(f"diffusers alone: {baseline}")
    del pipe
    gc.collect()
    if not chosen.smoke:
        torch.cuda.empty_cache()

    cascade = Commands(chosen.cascade, folder / "state")
    revision = cascade("model-repo", "revision", folder / "model").strip()
    file = folder / "cascade.yaml"
    file.write_text(manifest(folder, revision, side, chosen.latency) + "---\n" + profile(baseline, side))
    shutil.copy(file, out / "cascade.yaml")
    try:
        cascade("up", "--detach", "-f", file, local=True)
        for number in range(2):
            made = cascade("generate", "a lighthouse at dusk", "-o", out / f"{number}.png", "--json", local=True)
            _say(made.strip())
        account = json.loads(
            cascade(
                "load", "--rate", chosen.rate, "--duration", chosen.duration, "--deadline", chosen.latency, "--json",
                local=True,
            )
        )  # fmt: skip
        (out / "load.json").write_text(json.dumps(account, indent=1))
        (out / "status.json").write_text(cascade("status", "--json", local=True))
        if not chosen.smoke:
            _say(subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout)
    finally:
        subprocess.run([chosen.cascade, "down", "--state-dir", str(folder / "state")], check=False)
    name = "cpu" if chosen.smoke else torch.cuda.get_device_name()
    text = report(name, side, baseline, account, chosen)
    print(text)
    (out / "serving.md").write_text(text)


def profile(baseline: dict[str, float], side: int) -> str:
    """A CascadeProfile of the times of diffusers alone. Random weights have no quality: that of heavy is 1000."""
    execution = [
        {"variant": name, "class": CPU_CLASS, "size": f"{side}x{side}", "batch": 1, "p50Micros": round(1e6 * seconds),
         "p95Micros": round(1.2e6 * seconds)}
        for name, seconds in baseline.items()
    ]  # fmt: skip
    quality = [
        {"chain": ["light", "heavy"], "directPercent": direct, "escalationPercent": escalation,
         "valuesMilli": {"none": 1000 * max(direct, escalation) // 100}}
        for direct in (0, 50, 100) for escalation in (0, 50, 100)
    ]  # fmt: skip
    spec = {
        "source": {"kind": "measured", "tool": "tests/bench/gpu", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ")},
        "metrics": [{"name": "none", "direction": "max", "meaning": "stands in: the weights are random"}],
        "objectiveMetric": "none", "execution": execution, "quality": quality,
    }  # fmt: skip
    document = {"apiVersion": API_VERSION, "kind": "CascadeProfile", "metadata": {"name": "random"}, "spec": spec}
    return yaml.safe_dump(document, sort_keys=False)


def report(device: str, side: int, baseline: dict[str, float], account: dict[str, Any], chosen: Any) -> str:
    """Markdown: images of the service beside diffusers alone, in the same run."""
    alone_s = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in baseline.items())
    return (
        f"Device: {device}; torch {torch.__version__}; {side} × {side}; an image by diffusers alone: {alone_s}.\n"
        f"{chosen.rate} requests a second for {chosen.duration}, deadline {chosen.latency}:\n\n"
        f"```json\n{json.dumps(account, indent=1)}\n```\n"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()

"""The GPU benchmark runs, at a size for the CPU: every architecture, engine and format of its report."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cascade_api.documents import load_documents
from cascade_api.profile import CascadeProfile, contradictions
from support.tiny_model import ENVIRONMENT, LOADING_S, ROOT

pytestmark = [pytest.mark.contract, pytest.mark.slow]


def run(*arguments: str | Path, cache: Path, module: str = "bench.gpu") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-m", module, *arguments],
        cwd=ROOT / "tests", check=False, capture_output=True, text=True, timeout=LOADING_S,
        env={**os.environ, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1",
             "PYTHONPATH": f"{ROOT / 'crds'}:{ROOT / 'model-repo'}"},
    )  # fmt: skip


def test_it_writes_a_table_and_a_profile(tmp_path: Path) -> None:
    done = run(
        "--smoke", "--out", tmp_path / "out", "--engines", "eager,onnxruntime,tensorrt", cache=tmp_path / "cache"
    )
    assert done.returncode == 0, done.stderr
    assert "sdxl fp32 tensorrt: left out: engine tensorrt needs a GPU" in done.stderr
    rows = [line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if line.startswith("| s")]
    assert len(rows) == 3 * 2 * 2, "three models, two engines, two batch sizes"
    (profile,) = load_documents((tmp_path / "out" / "profile.yaml").read_text(), source="profile.yaml")
    assert isinstance(profile, CascadeProfile)
    assert {row.variant for row in profile.spec.execution} == {"sd15", "sdxl", "sd35-medium"}
    assert not [problem for problem in contradictions(profile.spec) if "unknown" in problem[1]]


def test_means_of_sharing_a_gpu_are_compared_with_one_for_each(tmp_path: Path) -> None:
    done = run("--smoke", "--seconds", "1", "--out", tmp_path, cache=tmp_path, module="bench.gpu.sharing")
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in (tmp_path / "sharing.md").read_text().splitlines()[4:]]
    assert rows[0] == "a GPU each (baseline)"
    assert len(rows) == 6

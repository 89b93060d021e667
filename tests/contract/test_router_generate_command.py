"""`cascade generate` and `cascade load` against a running router."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cascade_api.local import Addresses, write_addresses
from support.ports import free_port
from support.router import EASY, HARD, RouterProcess
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract


CASCADE = str(Path(sys.executable).parent / "cascade")


def generate(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [CASCADE, "generate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=directory)


def test_it_writes_a_png_and_says_how_it_was_made(fresh_router: RouterProcess, tmp_path: Path) -> None:
    run = generate(HARD, "-o", "hard.png", "--grpc", fresh_router.grpc, directory=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("hard.png: direct, made by shapes-heavy in ")
    assert Image.open(tmp_path / "hard.png").size == (32, 32)


def test_json_has_everything_that_it_takes_to_repeat_the_image(fresh_router: RouterProcess, tmp_path: Path) -> None:
    options = ("--json", "--cascade", "shapes", "--deadline", "120s", "--grpc", fresh_router.grpc)
    run = generate(EASY, "-o", "one.png", *options, directory=tmp_path)
    made = json.loads(run.stdout)
    assert set(made) == {
        "cascade", "route", "variant", "confidence", "hardness", "latency_ms", "seed", "file",
    }  # fmt: skip
    assert (made["route"], made["variant"], made["file"]) == ("light", "shapes-light", "one.png")
    generate(EASY, "-o", "two.png", "--seed", str(made["seed"]), *options, directory=tmp_path)
    one, two = (Image.open(tmp_path / name).tobytes() for name in ("one.png", "two.png"))
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 1


def test_it_finds_the_local_cascade_by_its_state(shared_router: RouterProcess, tmp_path: Path) -> None:
    http = shared_router.http_url.removeprefix("http://")
    write_addresses(
        tmp_path, Addresses(grpc=shared_router.grpc, http=http, redis="redis://nowhere", pid=1, manifest="shapes.yaml")
    )
    run = generate(EASY, "--state-dir", str(tmp_path), directory=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "image.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "prompt: is empty"),
        (("--deadline", "soon"), "--deadline: 'soon' is not a duration"),
        (("--seed", "-1"), "seed: -1 is not between"),
        (("--seed", str(2**80)), "--seed: "),
        (("--cascade", "portraits"), "model: 'portraits' is not served here; there is: shapes"),
    ],
)
def test_what_the_user_got_wrong_is_exit_code_2(
    shared_router: RouterProcess, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    prompt = EASY if arguments else ""
    run = generate(prompt, *arguments, "--grpc", shared_router.grpc, directory=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"cascade: {said}")
    assert list(tmp_path.iterdir()) == []


def test_nothing_running_is_exit_code_1_with_the_fix(shared_router: RouterProcess, tmp_path: Path) -> None:
    for arguments in (("--state-dir", str(tmp_path)), ("--grpc", f"127.0.0.1:{free_port()}")):
        run = generate(EASY, *arguments, directory=tmp_path)
        assert run.returncode == 1
        assert "`cascade up`" in run.stderr
        assert len(run.stderr.splitlines()) == 1
    run = generate(EASY, "-o", "missing/x.png", "--grpc", shared_router.grpc, directory=tmp_path)
    assert run.returncode == 1
    assert run.stderr == "cascade: --output: cannot write missing/x.png: No such file or directory\n"


def test_a_load_of_an_unknown_model_does_not_begin(shared_router: RouterProcess) -> None:
    command = [CASCADE, "load", "--grpc", shared_router.grpc, "--cascade", "nosuch", "--rate", "1", "--duration", "10m"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "cascade: --cascade: 'nosuch' is not served here; there is: shapes\n"


def test_a_load_that_is_interrupted_shows_what_there_is(shared_router: RouterProcess) -> None:
    command = [CASCADE, "load", "--json", "--grpc", shared_router.grpc, "--cascade", "default.shapes"]
    command += ["--rate", "1", "--duration", "10m", "--deadline", "100s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        assert load.stderr is not None
        assert "sent" in load.stderr.readline()
        load.send_signal(signal.SIGINT)
        output, errors = load.communicate(timeout=PATIENCE_S)
    assert load.returncode == 130, errors
    assert json.loads(output)["balanced"]
    assert "Traceback" not in errors

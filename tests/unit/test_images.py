"""The images: linted, pinned, without root, called as the chart calls them; their install steps run as they stand.

What those steps leave is small, says what it holds, and starts; what libraries ask for and nothing uses is left out.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import tritonclient.grpc as triton
import yaml
from tritonclient.utils import InferenceServerException

from support.agent import host_entries
from support.ports import free_port
from support.triton import LIGHT, ONE_IMAGE, inference
from support.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[2]
HADOLINT = ROOT / ".tools" / "hadolint"
DOCKERFILES = {"operator": "operator", "router": "router", "triton": "model-repo"}
"""Folder of each image's Dockerfile, by the image's name in docker-bake.hcl."""
FLAVOURS = {"operator": "operator", "router": "router", "runtime-cpu": "triton"}
"""The image that is installed from each lock, but for the one with the libraries of GPUs, of several gigabytes."""
HASHED = [*FLAVOURS, "runtime", "build", "pip"]
NEEDS = "which is not installed here"
PROOFS = {
    "operator": [
        ("cascade --help", 0, "doctor"),
        ("cascade plan --file {root}/examples/shapes.yaml --demand 20", 0, "demand"),
        ("cascade generate x --grpc 127.0.0.1:1", 1, "nothing answers"),
        ("cascade-operator", 2, "CASCADE_OPERATOR_TICK_MIN_S"),
    ],
    "router": [
        ("cascade --help", 0, "generate"),
        ("cascade generate x --grpc 127.0.0.1:1", 1, "nothing answers"),
        ("cascade status", 2, NEEDS),
        ("cascade-router", 2, "CASCADE_ROUTER_QUEUE_LIMIT"),
    ],
    "triton": [("cascade-triton --help", 0, "--model-repository"), ("cascade status", 2, NEEDS)],
}
"""What an image's programs answer: (command, exit status, a part of what they print)."""
LIMITS_MIB = {"operator": 200, "router": 150, "runtime-cpu": 340}
"""What an image may add to its base, by lock."""
IMPORTS = {
    "operator": ["cascade_operator"],
    "router": ["cascade_router"],
    "runtime-cpu": [
        "cascade_models.manifest",
        "cascade_models.repository",
        "cascade_models.launcher",
        "cascade_models.agent.serving",
    ],
}
"""Packages that an image runs, whole, and modules."""
ELSEWHERE = "cascade_operator.local."
"""The part of those packages for `cascade up`, which no image runs."""
IMPORT_ALL = """
import importlib, pkgutil, sys
elsewhere = sys.argv[1]
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + ".", onerror=lambda _: None):
        if not module.name.startswith(elsewhere) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
WRONG = {"CASCADE_OPERATOR_TICK_MIN_S": "0", "CASCADE_ROUTER_QUEUE_LIMIT": "0"}
"""Settings with which a program ends at once, and names the setting."""


@pytest.fixture(params=DOCKERFILES)
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def dockerfile(image: str) -> str:
    return (ROOT / DOCKERFILES[image] / "Dockerfile").read_text()


def pins(lock: str) -> dict[str, str]:
    """Version by package of a lock."""
    lines = (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines()
    matches = (re.match(r"([a-z0-9-]+)==([^\s;]+)", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def test_hadolint_has_nothing_to_say(image: str) -> None:
    done = subprocess.run(
        [HADOLINT, ROOT / DOCKERFILES[image] / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_stages_are_three_the_base_is_pinned_and_root_stays_behind(image: str) -> None:
    text = dockerfile(image)
    stages = re.split(r"^FROM (\S+)(?: AS \w+)?$", text, flags=re.MULTILINE)
    assert stages[1::2] == ["${BASE}", "libraries", "${BASE}"]
    last = stages[-1]
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, flags=re.MULTILINE)
    assert re.search(r":\d+\.\d+", base), f"{base} names no version"
    assert "RUN" not in last, "what installs stays in the stages before"
    user = re.findall(r"^USER (\d+):(\d+)$", last, flags=re.MULTILINE)
    assert user
    assert all(int(number) >= 1000 for number in user[0])


def test_the_image_s_triton_has_no_vulnerability_that_the_audit_knows() -> None:
    audit = runpy.run_path(str(ROOT / "requirements" / "audit.py"))
    known, release_of = audit["triton_vulnerabilities"], audit["image_release"]
    assert "CVE-2025-23319" in known("25.06")
    assert known("26.03") == known("25.07") == ["CVE-2026-24206", "CVE-2026-24207", "CVE-2026-24208", "CVE-2026-24209"]
    assert release_of("FROM x\nARG BASE=nvcr.io/nvidia/tritonserver:25.06-py3\n") == "25.06"
    release = release_of(dockerfile("triton"))
    assert known(release) == []
    assert release >= "26.07", "of the second half of 2026, or later"


@pytest.mark.parametrize("lock", ["triton", "runtime-cpu", "diffusers"])
def test_the_audit_names_the_locks_that_bring_the_old_triton(lock: str) -> None:
    wheel, release = runpy.run_path(str(ROOT / "requirements" / "audit.py"))["WHEEL"]
    assert f"nvidia-pytriton=={pins(lock)['nvidia-pytriton']}" == wheel
    assert release == "24.10"


def test_the_chart_the_bake_file_and_the_distribution_name_the_same(image: str) -> None:
    values = yaml.safe_load((ROOT / "helm" / "diffusion-cascade" / "values.yaml").read_text())
    part = values["runtime" if image == "triton" else image]
    assert part["image"]["repository"] == f"diffusion-cascade-{image}"
    assert f'ENTRYPOINT ["{part["command"][0]}"]' in dockerfile(image)
    bake = (ROOT / "docker-bake.hcl").read_text()
    assert re.search(rf'dockerfile = "{DOCKERFILES[image]}/Dockerfile"\s+tags\s+= name\("{image}", ""\)', bake)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert part["command"][0] in project["scripts"]
    assert f'default = "{project["version"]}"' in bake


def test_the_build_stage_gets_all_that_the_distribution_holds(image: str) -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for folder in {package.partition("/")[0] for package in build["packages"]}:
        assert f"COPY {folder} {folder}" in dockerfile(image)
        assert f"!{folder}" in allowed


@pytest.mark.parametrize("lock", ["operator", "router", "build"])
def test_images_run_the_versions_that_were_tested(lock: str) -> None:
    tested = pins("dev")
    assert pins(lock).items() <= tested.items(), "run `make lock`"


@pytest.mark.parametrize("extra", ["operator", "router"])
def test_images_have_all_that_their_part_of_the_distribution_asks_for(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    names = {re.split(r"[\[<>=~]", name)[0].lower() for name in wanted}
    assert names <= pins(extra).keys(), "run `make lock`"


def test_the_runtime_has_the_models_numpy_and_one_onnxruntime() -> None:
    assert pins("runtime")["numpy"] == pins("triton")["numpy"]
    assert "onnxruntime" not in pins("runtime")


def test_the_runtime_runs_the_versions_of_the_engines_that_were_tested() -> None:
    engines = {"torch", "diffusers", "transformers", "safetensors", "huggingface-hub", "onnx"}
    tested, installed = pins("diffusers"), pins("runtime")
    assert {name: installed[name] for name in engines} == {name: tested[name] for name in engines}
    assert pins("triton").items() <= tested.items(), "run `make lock`"


@pytest.mark.parametrize("lock", HASHED)
def test_every_release_that_an_image_installs_has_its_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    releases = re.findall(
        r"^[a-z0-9-]+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, flags=re.MULTILINE
    )
    assert len(releases) == len(pins(lock)) > 0
    left = set(text.splitlines()) - {line for release in releases for line in release.splitlines()}
    assert all(line.startswith("    # via ") for line in left), "a lock names releases, hashes and who asks for them"


@pytest.mark.slow
def test_the_lock_of_gpus_lacks_nothing_that_its_releases_ask_for(tmp_path: Path) -> None:
    """With hashes pip takes no release beside those of the lock; nothing is installed."""
    lock = ROOT / "requirements" / "runtime.lock"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--require-hashes",
        "-r",
        lock,
    ]
    # Not a torch for CPUs from a folder of wheels.
    environment = {**os.environ, "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    assert "torch-" in done.stdout.rpartition("Would install")[2]


def test_a_change_of_the_source_installs_no_library_again(image: str) -> None:
    _, libraries, product, last = re.split(r"^FROM .*$", dockerfile(image), flags=re.MULTILINE)
    copied = set(re.findall(r"\S+", " ".join(re.findall(r"^COPY ((?:.*\\\n)*.*)$", libraries, flags=re.MULTILINE))))
    lock = {"triton": "${LOCK}"}.get(image, image)
    files = {"install.sh", "trim.py", "left_out.toml", "pip.lock", "build.lock", "python-3.11.2.lock"}
    files.add(f"{lock}.lock")
    assert copied - {"\\", "requirements/"} == {f"requirements/{name}" for name in files}
    assert "COPY pyproject.toml" in product
    layers = re.findall(r"^COPY --from=(\w+) (\S+) (\S+)$", last, flags=re.MULTILINE)
    assert layers == [
        ("libraries", "/opt/cascade", "/opt/cascade"),
        ("product", "/opt/cascade.product", "/opt/cascade"),
    ]


def test_what_is_left_out_is_of_a_lock_and_says_why() -> None:
    left_out = tomllib.loads((ROOT / "requirements" / "left_out.toml").read_text())
    assert left_out.keys() == {"libraries", "product"}
    for entry in (*left_out["libraries"], *left_out["product"]):
        assert entry["why"]
        assert set(entry["locks"]) <= FLAVOURS.keys()
        for lock in entry["locks"]:
            assert set(entry.get("packages", [])) <= pins(lock).keys()


def test_a_library_is_loaded_without_what_the_loader_never_reads(tmp_path: Path) -> None:
    trim = runpy.run_path(str(ROOT / "requirements" / "trim.py"))
    whole = Path(sys.modules["pydantic_core._pydantic_core"].__file__ or "")
    cut, other = tmp_path / whole.name, tmp_path / "script.so"
    shutil.copy(whole, cut)
    other.write_text("/* GNU ld script */")
    trim["drop_unloaded"](cut)
    trim["drop_unloaded"](other)
    assert cut.stat().st_size < whole.stat().st_size
    assert hasattr(ctypes.CDLL(str(cut)), "PyInit__pydantic_core")
    assert other.read_text() == "/* GNU ld script */"


def test_a_list_that_names_what_is_not_there_fails(tmp_path: Path) -> None:
    trim = runpy.run_path(str(ROOT / "requirements" / "trim.py"))
    with pytest.raises(SystemExit, match=r"left_out\.toml: no file matches nothing/\*\*/here"):
        trim["leave_out"](tmp_path, [{"files": ["nothing/**/here"]}])
    with pytest.raises(SystemExit, match=r"left_out\.toml: nothing is not installed"):
        trim["leave_out"](tmp_path, [{"packages": ["nothing"]}])


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["build", "router"])
def test_a_file_of_another_hash_is_not_installed(lock: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    changed = tmp_path / "requirements" / f"{lock}.lock"
    text = changed.read_text()
    first = re.search(r"^.*?==(?:.*\n)+?(?=    # via)", text)
    assert first
    wrong = re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", first[0])
    changed.write_text(text.replace(first[0], wrong))
    command = ["requirements/install.sh", "libraries", "router", str(tmp_path / "prefix"), sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lock", FLAVOURS)
def test_install_steps_work_in_a_clean_environment(lock: str, tmp_path: Path) -> None:
    """As the Dockerfile runs them, but for the folder; Triton without a GPU then draws, too."""
    steps = re.findall(r"^RUN (.*)$", dockerfile(FLAVOURS[lock]), flags=re.MULTILINE)
    prefix, product = tmp_path / "cascade", tmp_path / "cascade.product"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    for step, part in zip(steps, ("libraries", "product"), strict=True):
        command = [*step.replace("/opt/cascade", str(prefix)).replace('"${LOCK}"', lock).split(), sys.executable]
        assert command[:3] == ["requirements/install.sh", part, lock]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900, env=environment
        )
        assert done.returncode == 0, done.stderr
    shutil.copytree(product, prefix, symlinks=True, dirs_exist_ok=True)
    assert size_mib(prefix) <= LIMITS_MIB[lock]
    (site,) = prefix.glob("lib/python3.*/site-packages")
    assert not (site / "pip").exists(), "what only installs is left behind"
    listed = json.loads((prefix / "sbom.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    versions = {component["name"]: component["version"] for component in listed["components"]}
    assert versions.pop("diffusion-cascade")
    assert versions == {name: pin for name, pin in pins(lock).items() if name not in left_out(lock)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "timeout": PATIENCE_S}
    command = [prefix / "bin" / "python", "-c", IMPORT_ALL, ELSEWHERE, *IMPORTS[lock]]
    imported = subprocess.run(command, env=environment, **run)  # type: ignore[call-overload]
    assert imported.returncode == 0, imported.stderr
    for line, status, part in PROOFS[FLAVOURS[lock]]:
        program, *arguments = line.format(root=ROOT).split()
        settings = {} if program == "cascade" else WRONG
        proof = subprocess.run([prefix / "bin" / program, *arguments], env={**environment, **settings}, **run)  # type: ignore[call-overload]
        assert proof.returncode == status, proof.stderr
        assert part in proof.stdout + proof.stderr
        assert "Traceback" not in proof.stderr
    if lock == "runtime-cpu":
        draws(prefix, tmp_path, {**environment, "CASCADE_TRITON_ENV": str(prefix)})


def size_mib(folder: Path) -> float:
    """What a folder takes on a disk, as `du` counts it."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 2**20


def left_out(lock: str) -> set[str]:
    """Packages of a lock that its image leaves out."""
    entries = tomllib.loads((ROOT / "requirements" / "left_out.toml").read_text())["libraries"]
    return {package for entry in entries if lock in entry["locks"] for package in entry.get("packages", [])}


def draws(prefix: Path, folder: Path, environment: dict[str, str]) -> None:
    """Start what an image starts, as a pod calls it, and have an image drawn."""
    worker = folder / "worker"
    worker.mkdir(mode=0o700)
    # The list that an agent was told last is in its folder, and is hosted again.
    (worker / "hosts.json").write_text(json.dumps({"variants": host_entries("shapes-light")}))
    address = f"127.0.0.1:{free_port()}"
    command = [
        prefix / "bin" / "cascade-triton", "agent", f"--folder={worker}", f"--grpc-address={address}",
        "--replica-id=image",
    ]  # fmt: skip
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        with triton.InferenceServerClient(address) as client:
            wait_for(lambda: is_ready(client, LIGHT), what="the model to be loaded")
            assert client.infer(LIGHT, **inference([ONE_IMAGE])).as_numpy("image").size
            with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                client.unload_model(LIGHT)
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def is_ready(client: triton.InferenceServerClient, model: str) -> bool:
    try:
        return bool(client.is_model_ready(model))
    except InferenceServerException:
        return False

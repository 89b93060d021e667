"""Fixtures: real Triton servers with the shapes variants on free ports, started by `cascade-triton`."""

from __future__ import annotations

import contextlib
import copy
import functools
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
import yaml
from tritonclient.utils import InferenceServerException

from cascade_models import manifest, repository
from cascade_models.shapes import assets
from support.ports import free_port, listens, listens_at
from support.processes import children, command_of
from support.waiting import PATIENCE_S, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes.yaml"
LAUNCHER = Path(sys.executable).parent / "cascade-triton"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
SLOW = {"steps": 500}
"""Settings of `shapes-slow`: more than a second for one image, so that a test can act while it is being made."""

GOODBYE_S = 60.0
"""How long a server may take its leave before it is killed."""

ONE_IMAGE = "a small red circle left of a large blue square above a green triangle"


def shapes_manifest(*, hosting: str = "dedicated", **changes: Mapping[str, Any]) -> str:
    """The example's manifest for the weights that are here; ``changes`` update a variant's settings by variant name.

    Its workers host one variant each, unless it is as in the example (``hosting="shared"``).

    Variants that the example lacks are made from its heavy one.
    """
    documents = copy.deepcopy(_example())
    spec = next(document for document in documents if document["kind"] == "DiffusionCascade")["spec"]
    heavy = next(variant for variant in spec["variants"] if variant["model"]["weights"] == "heavy")
    variants = {variant["name"]: variant for variant in spec["variants"]}
    for name, change in changes.items():
        variant = variants.setdefault(name, {**heavy, "name": name})
        variant["settings"] = {**variant["settings"], **change}
    for variant in variants.values():
        variant["model"]["revision"] = assets.revision()
    spec["variants"] = list(variants.values())
    for pool in spec["workers"]:
        pool |= {"hosting": hosting, "min": pool["max"] if hosting == "shared" else 0}
    return yaml.dump_all(documents, Dumper=yaml.CSafeDumper)


@functools.cache
def _example() -> list[dict[str, Any]]:
    return list(yaml.load_all(EXAMPLE.read_text(), Loader=yaml.CSafeLoader))


SHAPES = {variant.name: variant for variant in manifest.read_variants(shapes_manifest(**{"shapes-slow": SLOW}))}
"""The variants of `shapes_models`: `shapes-slow` shares its weights, and so its Triton model, with `shapes-heavy`."""
LIGHT, HEAVY = SHAPES["shapes-light"].model, SHAPES["shapes-heavy"].model


def model_of(variant: str) -> str:
    """The Triton model of one of `SHAPES`; any other name is that of a model."""
    return SHAPES[variant].model if variant in SHAPES else variant


def parameters_of(variant: str) -> dict[str, int | str] | None:
    """The parameters of a request for one of `SHAPES`."""
    return SHAPES[variant].settings.parameters() if variant in SHAPES else None


class TritonServer:
    """A tritonserver of our own; ``log`` is its output. Its models are spoken of by variants, see `model_of`.

    It listens on a Unix socket, as in local mode, or, with ``network``, on a port, as in a pod: then it keeps the
    models that it begins with.
    """

    def __init__(
        self,
        models: Path,
        directory: Path,
        *,
        load: Sequence[str] = (),
        replica_id: str = "test",
        network: bool = False,
    ) -> None:
        self.models = models
        self.log = directory / f"{replica_id}.log"
        self.load = list(dict.fromkeys(map(model_of, load)))
        self.replica_id = replica_id
        self.port = free_port()
        self._folder = None if network else tempfile.mkdtemp(prefix="test-triton-")
        if self._folder is not None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.process: subprocess.Popen[bytes] | None = None
        self._client: triton.InferenceServerClient | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}" if self._folder is None else f"unix:{self._folder}/triton:{self.port}"

    @property
    def socket(self) -> Path:
        """The file of its Unix socket."""
        return Path(self.endpoint.removeprefix("unix:"))

    @property
    def client(self) -> triton.InferenceServerClient:
        if self._client is None:
            self._client = triton.InferenceServerClient(self.endpoint)
        return self._client

    def command(self, *options: str) -> list[str]:
        """The launcher's command line for this server."""
        loads = [word for model in self.load for word in ("--load", model)]
        where = ["--model-repository", str(self.models), "--grpc-address", self.endpoint]
        return [str(LAUNCHER), *where, "--replica-id", self.replica_id, *loads, *options]

    def start(self, *options: str, within_s: float = PATIENCE_S) -> TritonServer:
        """Start the server and wait until it and its models are ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(*options), stdout=log, stderr=log)
        process = self.process
        wait_for(lambda: process.poll() is not None or self._ready(), what="the server to be ready", within_s=within_s)
        assert process.poll() is None, self.log.read_text()
        return self

    def stop(self) -> None:
        """Stop the server in the way an operator would, and remove what it leaves behind if it was killed."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GOODBYE_S)
            self.process.kill()
            self.process.wait()
        for stub in self._orphans():
            with contextlib.suppress(psutil.NoSuchProcess):
                stub.kill()
        for segment in self.segments():
            segment.unlink(missing_ok=True)

    def _orphans(self) -> list[psutil.Process]:
        """Model processes that outlived a killed server: its shared memory is named on their command lines."""
        region = f"{self.replica_id}.{self.port}."
        return [p for p in psutil.process_iter(["cmdline"]) if region in " ".join(p.info["cmdline"] or ())]

    def segments(self) -> list[Path]:
        """Its segments of shared memory."""
        return list(SHARED_MEMORY.glob(f"{self.replica_id}.{self.port}.*"))

    def stubs(self) -> list[psutil.Process]:
        """The processes of its models."""
        assert self.process is not None
        return children(self.process.pid)

    def stub(self, variant: str) -> psutil.Process:
        """The process of one model."""
        return next(stub for stub in self.stubs() if f"/{model_of(variant)}/1/model.py" in command_of(stub))

    def ask(self, variant: str, prompts: Sequence[str | bytes], **options: Any) -> triton.InferResult:
        """One request, see `inference`."""
        request = inference(prompts, **{"parameters": parameters_of(variant), **options})
        return self.client.infer(model_of(variant), **request)

    def statistics(self, variant: str) -> Any:
        """What the server counted of a model since it was loaded."""
        return self.client.get_inference_statistics(model_of(variant)).model_stats[0]

    def _ready(self) -> bool:
        # A channel that finds nobody at first waits a second before it tries again.
        if not (listens(self.port) if self._folder is None else listens_at(self.socket)):
            return False
        try:
            return bool(self.client.is_server_ready()) and all(map(self.client.is_model_ready, self.load))
        except InferenceServerException:
            return False


def inference(
    prompts: Sequence[str | bytes],
    *,
    seeds: Sequence[int] | None = None,
    negative: Sequence[str] | None = None,
    confidence: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of a client's ``infer`` or ``async_infer`` for a request of one image per prompt."""
    inputs = [_tensor("prompt", "BYTES", [p.encode() if isinstance(p, str) else p for p in prompts], np.object_)]
    if negative is not None:
        inputs.append(_tensor("negative_prompt", "BYTES", [text.encode() for text in negative], np.object_))
    if seeds is not None:
        inputs.append(_tensor("seed", "INT64", list(seeds), np.int64))
    names = ["image", "confidence"] if confidence else ["image"]
    return {"inputs": inputs, "outputs": [triton.InferRequestedOutput(name) for name in names], **options}


def _tensor(name: str, datatype: str, values: list[Any], kind: type) -> triton.InferInput:
    tensor = triton.InferInput(name, [len(values), 1], datatype)
    tensor.set_data_from_numpy(np.array(values, dtype=kind).reshape(-1, 1))
    return tensor


def render(text: str, directory: Path) -> list[str]:
    """Render the repository of a manifest into a folder; returns the models that changed."""
    return repository.render(repository.models_of(manifest.read_variants(text)), directory)


@pytest.fixture(scope="session")
def shapes_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with `shapes-light`, `shapes-heavy` and `shapes-slow`, two of which share their weights."""
    directory = tmp_path_factory.mktemp("models")
    render(shapes_manifest(**{"shapes-slow": SLOW}), directory)
    return directory


@pytest.fixture(scope="session")
def shared_triton(shapes_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One server with all shapes variants for the whole run; not to be killed or reloaded."""
    directory = tmp_path_factory.mktemp("triton")
    server = TritonServer(shapes_models, directory, load=tuple(SHAPES), replica_id="test-shared")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def mortal_triton(shapes_models: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A server of the test's own that serves `shapes-light`, to be killed and reloaded at will."""
    server = TritonServer(shapes_models, tmp_path, load=("shapes-light",), replica_id="test-mortal")
    try:
        yield server.start()
    finally:
        server.stop()

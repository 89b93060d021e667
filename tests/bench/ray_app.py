"""The two-stage cascade as a Ray Serve application behind the same gRPC service; runs in `.venv-ray`, ends with stdin.

    python ray_app.py PORT ESCALATION LIGHT_S HEAVY_S

The stages sleep in replicas of their own, in batches of up to eight, as the models in Triton do; the composition passes
each prompt on, and a part of them twice. Prints one line when it serves.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path

import ray
from ray import serve
from ray.serve.config import gRPCOptions
from tritonclient.grpc import service_pb2

BATCH = 8
AT_ONCE = 1000
IMAGE = bytes(32 * 32 * 3)
SERVICE = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


@serve.deployment(max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 0})
class Stage:
    """Sleeps for each batch; answers an image and a confidence for each prompt."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0)
    async def __call__(self, prompts: list[bytes]) -> list[tuple[bytes, float]]:
        await asyncio.sleep(self._seconds)
        return [(IMAGE, random.random()) for _ in prompts]


@serve.deployment(max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 0})
class Composition:
    """Light first; where the confidence is in the lowest part, heavy too."""

    def __init__(self, light: object, heavy: object, escalation: float) -> None:
        self._light, self._heavy, self._escalation = light, heavy, escalation

    async def ModelInfer(self, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:  # noqa: N802
        prompt = request.inputs[0].contents.bytes_contents[0]
        image, confidence = await self._light.remote(prompt)
        if confidence < self._escalation:
            image, _ = await self._heavy.remote(prompt)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="image", datatype="UINT8", shape=[32, 32, 3])
        answer.raw_output_contents.append(image)
        return answer


def main() -> None:
    port, escalation, light_s, heavy_s = int(sys.argv[1]), *map(float, sys.argv[2:])
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as scratch:
        # Ray pickles messages by the name of their module, which tritonclient's do not say truly.
        (Path(scratch) / "grpc_service_pb2.py").write_text("from tritonclient.grpc.service_pb2 import *\n")
        os.environ["PYTHONPATH"] = scratch
        ray.init(
            num_cpus=2, include_dashboard=False, _temp_dir=scratch, object_store_memory=100_000_000, log_to_driver=False
        )
        try:
            serve.start(grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[SERVICE]))
            light = Stage.options(name="Light").bind(light_s)
            heavy = Stage.options(name="Heavy").bind(heavy_s)
            serve.run(Composition.bind(light, heavy, escalation))
            print("serving", flush=True)
            sys.stdin.read()
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()

"""KServe's Python client, with what it sends unasked: run in .venv-clients, with the router's gRPC address."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput


def prompt_input(*prompts: str) -> InferInput:
    tensor = InferInput("prompt", [len(prompts)], "BYTES")
    tensor.set_data_from_numpy(np.array(list(prompts), dtype=object))
    return tensor


def told(response: Any) -> dict[str, Any]:
    """Shape or text of each output, and the id."""
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    return {
        "id": response.id,
        "image": list(outputs["image"].shape) if "image" in outputs else None,
        "route": [route.decode() for route in outputs["route"].reshape(-1)],
    }


async def main() -> None:
    client = InferenceGRPCClient(sys.argv[1])
    seed = InferInput("seed", [1], "INT64")
    seed.set_data_from_numpy(np.array([7], dtype=np.int64))
    typed = InferInput("prompt", [1], "BYTES", data=["a cat"])
    custom = {"sequence_id": 3, "sequence_start": True, "binary_data_output": True, "team": "red"}
    outputs = [RequestedOutput("route", {"binary_data": True})]
    requests = {
        "numpy": InferRequest("shapes", [prompt_input("a cat")]),
        "two": InferRequest("shapes", [prompt_input("a cat", "a dog")], request_id="my two cats"),
        "seeded": InferRequest("shapes", [prompt_input("a cat"), seed]),
        "typed": InferRequest("shapes", [typed]),
        "custom": InferRequest("shapes", [prompt_input("a cat")], parameters=custom, request_outputs=outputs),
    }
    ready = [
        await client.is_server_live(),
        await client.is_server_ready(),
        await client.is_model_ready("shapes"),
    ]
    made = {name: told(await client.infer(request)) for name, request in requests.items()}
    await client.close()
    sys.stdout.write(json.dumps({"ready": ready, "made": made}))


asyncio.run(main())

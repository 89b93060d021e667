"""KServe's Python client over HTTP: run in .venv-clients, with the router's HTTP address."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def prompt_input(*prompts: str, binary: bool) -> InferInput:
    tensor = InferInput("prompt", [len(prompts)], "BYTES")
    tensor.set_data_from_numpy(np.array(list(prompts), dtype=object), binary_data=binary)
    return tensor


def told(response: Any) -> dict[str, Any]:
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    route = outputs["route"].reshape(-1)
    return {
        "image": list(outputs["image"].shape) if "image" in outputs else None,
        "route": [each.decode() if isinstance(each, bytes) else str(each) for each in route],
    }


async def main() -> None:
    url = sys.argv[1]
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=120))
    binary = {"binary_data_output": True}
    requests = {
        "json": InferRequest("shapes", [prompt_input("a cat", binary=False)]),
        "binary": InferRequest("shapes", [prompt_input("a cat", "a dog", binary=True)], parameters=binary),
        "named": InferRequest(
            "shapes",
            [prompt_input("a cat", binary=True)],
            request_outputs=[RequestedOutput("route", {"binary_data": True})],
        ),
    }
    made = {name: told(await client.infer(url, request, model_name="shapes")) for name, request in requests.items()}
    ready = [
        await client.is_server_live(url),
        await client.is_server_ready(url),
        await client.is_model_ready(url, "shapes"),
    ]
    await client.close()
    sys.stdout.write(json.dumps({"ready": ready, "made": made}))


asyncio.run(main())

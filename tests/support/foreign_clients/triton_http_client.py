"""NVIDIA's Triton client over HTTP: run in .venv-clients, with the router's HTTP host and port."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton


def prompts(*texts: bytes, binary: bool = True) -> list[triton.InferInput]:
    tensor = triton.InferInput("prompt", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
    return [tensor]


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1], concurrency=2, network_timeout=120.0)
    asked: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "plain": (prompts(b"a cat"), {}),
        "json": (
            prompts(b"a cat", binary=False),
            {"outputs": [triton.InferRequestedOutput("image", binary_data=False)]},
        ),
        "options": (
            prompts(b"a cat"),
            {"request_id": "my cat", "priority": 1, "timeout": 10**8, "parameters": {"tier": "low", "team": "red"}},
        ),
        "version": (prompts(b"a cat"), {"model_version": "1"}),
        "two": (prompts(b"a cat", b"a dog"), {}),
    }
    made = {}
    for name, (inputs, options) in asked.items():
        result = client.infer("shapes", inputs, **options)
        route = result.as_numpy("route")
        made[name] = {
            "image": list(result.as_numpy("image").shape),
            "route": None if route is None else [each.decode() for each in route],
            "id": result.get_response()["id"],
        }
    file = triton.InferRequestedOutput("image_encoded", binary_data=True)
    jpeg = client.infer("shapes", prompts(b"a cat"), outputs=[file], parameters={"image_format": "jpeg"})
    later = client.async_infer("shapes", prompts(b"a cat")).get_result()
    refused = {}
    for name, inputs in {"nothing": prompts(b"a cat"), "shapes": prompts(b"")}.items():
        try:
            client.infer(name, inputs)
        except triton.InferenceServerException as error:
            refused[name] = [error.status(), error.message()]
    metadata, config = client.get_model_metadata("shapes"), client.get_model_config("shapes")
    found = {
        "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("shapes", "1")],
        "unready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata()["name"],
        "inputs": [each["name"] for each in metadata["inputs"]],
        "shape": metadata["outputs"][0]["shape"],
        "batch": config["max_batch_size"],
        "index": [each["name"] for each in client.get_model_repository_index()],
        "counted": client.get_inference_statistics("shapes")["model_stats"][0]["inference_count"] > 0,
        "made": made,
        "jpeg": jpeg.as_numpy("image_encoded")[0][:3].hex(),
        "later": list(later.as_numpy("image").shape),
        "refused": refused,
    }
    client.close()
    sys.stdout.write(json.dumps(found))


main()

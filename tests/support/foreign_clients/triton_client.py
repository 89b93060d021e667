"""NVIDIA's Triton client with its own options: run in .venv-clients, with the router's gRPC address."""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def prompt_input() -> list[triton.InferInput]:
    tensor = triton.InferInput("prompt", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"a cat"], dtype=np.object_))
    return [tensor]


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1])
    asked: dict[str, dict[str, Any]] = {
        "plain": {},
        "sequence": {"sequence_id": 5, "sequence_start": True, "sequence_end": True, "priority": 200},
        "patient": {"timeout": 10**12, "request_id": "a cat, please"},
        "custom": {"parameters": {"team": "red", "weight": 0.5, "trial": True}, "headers": {"x-team": "red"}},
        "jpeg": {
            "parameters": {"image_format": "jpeg", "image_quality": 80},
            "outputs": [triton.InferRequestedOutput("image_encoded")],
        },
    }
    made = {}
    for name, options in asked.items():
        result = client.infer("shapes", prompt_input(), **options)
        encoded = result.as_numpy("image_encoded")
        image = result.as_numpy("image")
        made[name] = list(image.shape) if encoded is None else encoded[0][:3].hex()
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put(error or result.get_response().id))
    for number in range(3):
        client.async_stream_infer("shapes", prompt_input(), request_id="same", sequence_id=number + 1)
    streamed = [str(answers.get(timeout=120)) for _ in range(3)]
    client.stop_stream()
    sys.stdout.write(
        json.dumps(
            {
                "made": made,
                "streamed": streamed,
                "server": client.get_server_metadata().name,
                "outputs": [output.name for output in client.get_model_metadata("shapes").outputs],
            }
        )
    )


main()

"""PyTriton's client, which numbers its requests from 0: run in .venv-clients, with the router's gRPC address.

A second argument is how many images to ask for, one after the other.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from pytriton.client import ModelClient


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    with ModelClient(f"grpc://{address}", "shapes") as client:
        config = client.model_config
        prompt = np.array([b"a cat"], dtype=np.object_)
        made = [client.infer_sample(prompt=prompt) for _ in range(count)]
        batch = client.infer_batch(
            prompt=np.array([[b"a cat"], [b"a dog"]], dtype=np.object_),
            seed=np.array([[1], [2]], dtype=np.int64),
            parameters={"team": "red", "weight": 3},
        )
    sys.stdout.write(
        json.dumps(
            {
                "inputs": [tensor.name for tensor in config.inputs],
                "batch": config.max_batch_size,
                "images": [list(each["image"].shape) for each in made],
                "files": [each["image_encoded"].item()[:4].hex() for each in made],
                "two": list(batch["image"].shape),
                "routes": [route.decode() for route in batch["route"].reshape(-1)],
            }
        )
    )


main()

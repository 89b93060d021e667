"""OpenAI's client changes a given image: run in .venv-clients, with the router's HTTP address and a file."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import openai

PROMPT = "a large blue square"


def begins(item: Any) -> str:
    return base64.b64decode(item.b64_json)[:4].hex()


def main() -> None:
    client = openai.OpenAI(
        base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )
    file, mask = (Path(name) for name in sys.argv[2:])
    common: dict[str, Any] = {"model": "shapes", "prompt": PROMPT}
    asked: dict[str, dict[str, Any]] = {
        "plain": {"image": file},
        "bytes": {"image": ("a.png", file.read_bytes()), "n": 2, "output_format": "jpeg", "output_compression": 50},
        "listed": {"image": [file], "quality": "high", "size": "auto", "user": "u-7", "input_fidelity": "high"},
        "masked": {"image": file, "mask": mask, "extra_body": {"strength": 0.9, "seed": 3}},
    }
    made = {}
    for name, options in asked.items():
        answer = client.images.edit(**common, **options)
        assert answer.data is not None
        made[name] = [begins(item) for item in answer.data]
    stream = client.images.edit(**common, image=file, stream=True, partial_images=1)
    events = [(event.type, begins(event)) for event in stream]
    refused = ""
    try:
        client.images.edit(**common, image=[file, file])
    except openai.BadRequestError as error:
        refused = f"{error.param}: {error.code}"
    sys.stdout.write(json.dumps({"made": made, "events": events, "refused": refused}))


main()

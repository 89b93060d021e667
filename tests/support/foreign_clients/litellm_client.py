"""LiteLLM, as a client of an OpenAI-compatible server: run in .venv-clients, with the router's HTTP address."""

from __future__ import annotations

import base64
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch one from the network

import litellm


def main() -> None:
    asked = {
        "plain": {},
        "several": {"n": 2, "size": "32x32", "quality": "high", "user": "u-7"},
        "extra": {"extra_body": {"seed": 7, "num_inference_steps": 2}},
    }
    made = {}
    for name, options in asked.items():
        answer = litellm.image_generation(
            prompt="a cat", model="openai/shapes", api_base=f"{sys.argv[1]}/v1", api_key="none", **options
        )
        made[name] = [base64.b64decode(item.b64_json)[:4].hex() for item in answer.data]
    sys.stdout.write("\n" + json.dumps(made))


main()

"""OpenAI's client, which checks all that it gets: run in .venv-clients, with the router's HTTP address."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import openai

PROMPT = "a cat"


def begins(item: Any) -> str:
    return base64.b64decode(item.b64_json)[:4].hex()


def main() -> None:
    client = openai.OpenAI(
        base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )
    asked: dict[str, dict[str, Any]] = {
        "plain": {},
        "auto": {"quality": "auto", "size": "auto", "background": "auto", "moderation": "auto", "output_format": "png"},
        "high": {"quality": "high", "background": "opaque", "moderation": "low", "user": "u-7", "n": 2},
        "old": {"quality": "hd", "style": "vivid", "response_format": "b64_json"},
        "nulls": dict.fromkeys(
            ("quality", "style", "size", "n", "background", "moderation", "output_format", "output_compression",
             "response_format", "stream", "partial_images")
        ),
        "jpeg": {"output_format": "jpeg", "output_compression": 50},
        "webp": {"output_format": "webp", "output_compression": 0},
        "ten": {"n": 10},
        "long": {"prompt": "a cat " * 5_000},
    }  # fmt: skip
    made = {}
    for name, options in asked.items():
        answer = client.images.generate(**{"model": "shapes", "prompt": PROMPT, **options})
        assert answer.data is not None
        assert answer.usage is not None
        made[name] = {
            "images": [begins(item) for item in answer.data],
            "told": [answer.size, answer.output_format, answer.background, answer.usage.total_tokens],
        }
        assert answer.quality in ("low", "medium", "high")
        assert answer.created > 1_700_000_000
    stream = client.images.generate(model="shapes", prompt=PROMPT, stream=True, partial_images=1, output_format="jpeg")
    events = [(event.type, event.output_format, begins(event)) for event in stream]
    refused = {}
    for field, value in {"background": "transparent", "response_format": "url", "output_format": "gif"}.items():
        try:
            client.images.generate(**{"model": "shapes", "prompt": PROMPT, field: value})
        except openai.BadRequestError as error:
            refused[field] = error.param
    listed = [model.id for model in client.models.list()]
    model = client.models.retrieve("shapes")
    try:
        client.models.retrieve("dall-e")
    except openai.NotFoundError as error:
        refused["model"] = error.code
    sys.stdout.write(
        json.dumps(
            {
                "made": made,
                "events": events,
                "refused": refused,
                "listed": listed,
                "model": [model.id, model.created, model.owned_by],
            }
        )
    )


main()

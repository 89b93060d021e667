"""OpenAI's bodies: the document has the limits in force, and refusals name the field and the fix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascade_api.settings import RouterSettings
from cascade_router.cascade.choosing import Wish
from cascade_router.requests import Receipt, RequestRefused
from cascade_router.serving import openai, openapi

SETTINGS = RouterSettings(prompt_limit=40, deadline_limit_s=100)


def read(body: bytes) -> openai.WantedImages:
    return openai.read_body(
        body,
        request_id="r1",
        idempotency_key="",
        default_model="shapes",
        receipt=Receipt(at=0.0),
        settings=SETTINGS,
    )


def wanted(**fields: Any) -> openai.WantedImages:
    return read(json.dumps({"prompt": "a cat", **fields}).encode())


def refusal_of(body: bytes) -> RequestRefused:
    with pytest.raises(RequestRefused) as refused:
        read(body)
    return refused.value


@pytest.mark.parametrize("body", ["ImagesRequest", "JobRequest"])
def test_the_document_has_the_bounds_that_are_settings(body: str) -> None:
    fields = openapi.document(SETTINGS)["components"]["schemas"][body]["properties"]
    assert (fields["prompt"]["maxLength"], fields["negative_prompt"]["maxLength"]) == (40, 40)
    assert fields["deadline_ms"]["maximum"] == 100_000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seed": -1}, f"seed: -1 is not between 0 and {2**63 - 1}"),
        ({"partial_images": 4, "stream": True}, "partial_images: 4 is not between 0 and 3"),
        ({"output_compression": 101}, "output_compression: 101 is not between 0 and 100"),
        ({"style": "cubist"}, "style: 'cubist' is none of vivid, natural"),
        ({"output_format": "bmp"}, "output_format: 'bmp' is none of png, jpeg, webp"),
        (
            {"response_format": "url"},
            "response_format: this router has no bucket that images could go into",
        ),
        ({"svg": True}, "svg: is not supported: images consist of pixels; leave it out"),
        ({"stream": 1}, "stream: must be true or false"),
        ({"n": 10**100}, "n: must be a whole number"),
        ({"deadline_ms": 10**400}, "deadline_ms: is not a finite number; give milliseconds from now"),
        ({"deadline_ms": True}, "deadline_ms: must be a number of milliseconds from now"),
        ({"priority": 1.5}, "priority: must be a name or a whole number"),
        ({"user": {"id": 7}}, "user: must be text"),
        ({"user": "\ud800"}, "user: holds half of a surrogate pair; send valid Unicode"),
        ({"steps": 4}, "steps: 'steps' is not a known field; the fields are model, prompt, size, "),
        ({"tier": "low"}, "tier: 'tier' is not a known field"),
        ({"num_inference_steps": -1}, "num_inference_steps: -1 is not between 0 and 10000"),
        ({"num_inference_steps": 2.5}, "num_inference_steps: must be a whole number"),
        ({"guidance_scale": 10**400}, "guidance_scale: inf is not between 0 and 1000"),
        ({"guidance_scale": "strong"}, "guidance_scale: must be a number"),
        ({"lora": 5}, "lora: must be the name of an adapter, or"),
        ({"lora": {"name": "ink", "scale": 2}}, "lora: must be the name of an adapter, or"),
        ({"lora": ["ink"]}, "lora: must be the name of an adapter, or"),
        ({"loras": ["ink"]}, "loras: 'loras' is not a known field"),
        (
            {"quality": "high", "num_inference_steps": 4},
            "quality: cannot be given together with num_inference_steps or",
        ),
    ],
)
def test_a_refusal_names_the_field_and_what_it_may_be(fields: dict[str, Any], said: str) -> None:
    refused = refusal_of(json.dumps({"prompt": "a cat", **fields}).encode())
    assert refused.message.startswith(said)
    assert refused.field == said.partition(":")[0]


def test_fields_that_may_only_be_null_are_not_offered() -> None:
    assert "svg" not in refusal_of(b'{"prompt": "a cat", "steps": 4}').message


@pytest.mark.parametrize(
    ("quality", "tier"),
    [(None, "auto"), ("auto", "auto"), ("medium", "auto"), ("standard", "auto"), ("low", "low"), ("high", "high"),
     ("hd", "high"), ("xhigh", "high"), ("max", "high")],
)  # fmt: skip
def test_every_quality_of_openai_is_a_tier(quality: str | None, tier: str) -> None:
    assert wanted(quality=quality).requests[0].wish == Wish(tier)  # type: ignore[arg-type]


def test_settings_of_other_servers_are_a_wish_too() -> None:
    assert wanted(num_inference_steps=24, guidance_scale=4).requests[0].wish == Wish(steps=24, guidance=4.0)


@pytest.mark.parametrize("lora", ["ink", {"name": "ink"}])
def test_an_adapter_is_named_as_text_or_as_an_object(lora: object) -> None:
    assert wanted(lora=lora, quality="low").requests[0].wish == Wish("low", lora="ink")
    assert wanted(lora=None).requests[0].wish == Wish()


def test_what_is_ignored_is_named_and_a_user_is_noted_for_the_log() -> None:
    asked = wanted(style="vivid", moderation="low", user="Zoë \n" + 200 * "x", background="opaque", n=2)
    assert asked.ignored == ("style", "moderation")
    assert {request.end_user for request in asked.requests} == {("Zo\\xeb \\n" + 200 * "x")[:128]}
    both = wanted(user="u-7", safety_identifier="s-7")
    assert (both.ignored, both.requests[0].end_user) == ((), "s-7")

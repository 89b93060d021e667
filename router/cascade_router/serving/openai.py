"""OpenAI images over HTTP: JSON bodies to requests, answers to items, refusals to error bodies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cascade_api.plan import Plan
from cascade_api.reasons import Refusal, Route
from cascade_api.settings import RouterSettings

from ..pools.clients import ImageForm, Prompt
from ..requests import (
    MAX_IMAGES,
    Answer,
    GenerateRequest,
    Refused,
    check_deadline,
    check_priority,
    check_prompt,
    check_seed,
    check_tier,
    invalid,
    nth_id,
)
from ..tracing import Headers
from . import openai_fields
from .openai_fields import text, whole
from .parts import Part
from .statuses import HTTP

MAX_PARTIAL: Final = 3
"""OpenAI's bound; there is at most one partial image, the light one."""
COMPLETED: Final = "image_generation.completed"
PARTIAL: Final = "image_generation.partial_image"
FAILED: Final = "error"
EVENTS: Final = (COMPLETED, PARTIAL, FAILED)
"""Names of a stream's events."""
FIELDS: Final = (
    "model", "prompt", "n", "size", *openai_fields.NAMES, "stream", "partial_images",
    "negative_prompt", "seed", "deadline_ms", "priority", "tier",
)  # fmt: skip
"""The last five are the KServe inputs and parameters of the same names, the others OpenAI's."""
NO_TOKENS: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "total_tokens": 0,
}
"""The usage that OpenAI's clients expect; nothing here is counted in tokens."""
QUALITIES: Final = ("low", "medium", "high")
"""What answers say: all images were made by the light model, some, or none of them."""


@dataclass(frozen=True, slots=True)
class ImagesRequest:
    """A valid body, before the cascade is known; one `GenerateRequest` per image."""

    requests: tuple[GenerateRequest, ...]
    size: str | None
    form: ImageForm
    stream: bool = False
    previews: bool = False
    """The stream shows the light image of a request that escalates."""


def read_body(
    body: bytes,
    *,
    request_id: str,
    idempotency_key: str,
    default_model: str | None,
    tenant: str,
    settings: RouterSettings,
    trace: Headers = (),
    received: float | None = None,
) -> ImagesRequest:
    """Parse a request body.

    Args:
        request_id: the id of the first image's request, and the stem of the others'.
        idempotency_key: while a call with it is served, another one is refused; may be empty.
        default_model: the model of a body without one; None where that would be ambiguous.
        received: when it came, by the router's monotonic clock.

    Raises:
        Refused: INVALID with the field named.
    """
    content = _parse(body)
    for name in content:
        if name not in FIELDS and name not in openai_fields.NOT_SERVED:
            shown = name[:80].strip() or "body"
            raise invalid(shown, f"{name[:80]!r} is not a known field; there are {', '.join(FIELDS)}")
    model = text(content, "model")
    if model is None:
        model = default_model
    if model is None:
        raise invalid("model", "is missing; give the name of a cascade")
    prompt = text(content, "prompt")
    if prompt is None:
        raise invalid("prompt", "is missing; describe the image in a few words")
    check_prompt(prompt, limit=settings.prompt_limit)
    negative = text(content, "negative_prompt") or None
    if negative is not None:
        check_prompt(negative, limit=settings.prompt_limit, field="negative_prompt")
    openai_fields.check_choices(content)
    form = openai_fields.output_form(content)
    count = whole(content, "n")
    count = 1 if count is None else count
    if not 1 <= count <= MAX_IMAGES:
        raise invalid("n", f"{count} is not between 1 and {MAX_IMAGES}")
    stream, previews = _stream(content, count)
    seed = whole(content, "seed")
    common: dict[str, Any] = {
        "model": model,
        "deadline_s": _deadline(content, settings),
        "band": check_priority(_priority(content)),
        "tier": check_tier(text(content, "tier") or ""),
        "tenant": tenant,
        "form": form,
        "idempotency_key": idempotency_key,
        "received": received,
        "trace": trace,
    }
    requests = tuple(
        GenerateRequest(
            id=nth_id(request_id, index),
            prompt=Prompt(prompt, negative, None if seed is None else check_seed(seed + index)),
            **common,
        )
        for index in range(count)
    )
    return ImagesRequest(requests, text(content, "size"), form, stream, previews)


def check_size(size: str | None, *, width: int, height: int) -> None:
    """The cascade's own size, ``auto`` or none at all."""
    if size not in (None, "auto", f"{width}x{height}"):
        raise invalid("size", f"{size[:20] if size else size!r} is not served; leave it out or use {width}x{height}")


def image_item(answer: Answer) -> dict[str, Any]:
    """How an image was made, which stands beside it in each item of ``data``."""
    return {
        "route": str(answer.route),
        "variant": answer.variant,
        "confidence": answer.confidence,
        "hardness": answer.hardness,
        "latency_ms": round(answer.latency_s * 1000, 3),
    }


def images_body(wanted: ImagesRequest, answers: Sequence[Answer], *, created_at: int) -> list[Part]:
    """The body of an answer."""
    content = {"created": created_at, **_made_how(wanted, answers), "usage": NO_TOKENS}
    parts: list[Part] = [json.dumps(content).encode()[:-1] + b', "data": [']
    for index, answer in enumerate(answers):
        parts += [b", "] * (index > 0) + with_image(image_item(answer), answer.image.encoded)
    return [*parts, b"]}"]


def stream_event(wanted: ImagesRequest, answer: Answer, *, final: bool, created_at: int) -> list[Part]:
    """A server-sent event of an image stream: a partial image, or the completed one."""
    kind = COMPLETED if final else PARTIAL
    content = {
        "type": kind,
        "created_at": created_at,
        **_made_how(wanted, [answer]),
        **({"usage": NO_TOKENS} if final else {"partial_image_index": 0}),
        **image_item(answer),
    }
    return [f"event: {kind}\ndata: ".encode(), *with_image(content, answer.image.encoded), b"\n\n"]


def with_image(content: Mapping[str, Any], encoded: memoryview) -> list[Part]:
    """A JSON object with the file of an image as ``b64_json``, whose megabytes of base64 need no escaping."""
    return [b'{"b64_json": "', encoded, b'", ' + json.dumps(content).encode()[1:]]


def _made_how(wanted: ImagesRequest, answers: Sequence[Answer]) -> dict[str, Any]:
    """What OpenAI's answers tell of all their images."""
    image = answers[0].image
    light = sum(answer.route in (Route.LIGHT, Route.DEGRADED) for answer in answers)
    quality = QUALITIES[1] if 0 < light < len(answers) else QUALITIES[0 if light else 2]
    return {
        "size": f"{image.width}x{image.height}",
        "output_format": wanted.form.encoded,
        "background": "opaque",
        "quality": quality,
    }


def model_item(name: str, plan: Plan) -> dict[str, Any]:
    """A cascade as OpenAI's clients see a model: made when its plan was, and owned by its namespace."""
    return {
        "id": name,
        "object": "model",
        "created": _unix_s(plan.issued_at),
        "owned_by": plan.ref.namespace,
    }


def _unix_s(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0  # a plan is anybody's text there


def sent_event(name: str, content: Mapping[str, Any]) -> bytes:
    """One server-sent event with a JSON body."""
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_body(refused: Refused) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a refusal."""
    status = HTTP[refused.reason]
    kind = "invalid_request_error" if status < 429 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    headers = {"cascade-reason": str(refused.reason)}
    if refused.reason is Refusal.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(refused.retry_after_s))
    body = error_body(refused.message, kind=kind, code=str(refused.reason), param=refused.field)
    return status, body, headers


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it is not JSON in UTF-8"
        raise invalid("body", f"cannot be read: {why}; send a JSON object") from None
    if not isinstance(content, dict):
        raise invalid("body", "is not a JSON object")
    if b"\\u" in body:  # what else may stand in the text came from UTF-8, and can be sent back as such
        for name, value in content.items():
            _encodable(name, "body")
            _encodable(value, name)
    return content


def _stream(content: Mapping[str, Any], count: int) -> tuple[bool, bool]:
    """Whether to stream, and with previews."""
    stream = content.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid("stream", "must be true or false")
    partial = whole(content, "partial_images")
    if partial is not None and not 0 <= partial <= MAX_PARTIAL:
        raise invalid("partial_images", f"{partial} is not between 0 and {MAX_PARTIAL}")
    if stream and count > 1:
        raise invalid("n", f"{count} images cannot be streamed; ask for one, or without `stream`")
    if partial and not stream:
        raise invalid("partial_images", "needs `stream` to be true")
    return bool(stream), bool(partial)


def _deadline(content: Mapping[str, Any], settings: RouterSettings) -> float | None:
    value = content.get("deadline_ms")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid("deadline_ms", "must be a number of milliseconds from now")
    try:
        seconds = value / 1000
    except OverflowError:
        seconds = math.inf
    return check_deadline(seconds, limit_s=settings.deadline_limit_s, field="deadline_ms")


def _priority(content: Mapping[str, Any]) -> str | int:
    value = content.get("priority")
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise invalid("priority", "must be a name or a whole number")
    if isinstance(value, int) and abs(value) >= 10**80:
        raise invalid("priority", "is a number far too large")
    return value


def _encodable(value: Any, name: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise invalid(name, "holds half of a surrogate pair; send valid Unicode") from None

"""OpenAI images over HTTP: converts JSON bodies to requests, answers to items, and refusals to error bodies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cascade_api.plan import Plan
from cascade_api.reasons import Refusal, Route
from cascade_api.settings import RouterSettings

from ..pools.clients import PNG, Format, ImageForm, Prompt
from ..requests import (
    DEFAULT_STRENGTH,
    LORA,
    Edit,
    GenerateRequest,
    MadeImage,
    Receipt,
    RequestRefused,
    check_deadline,
    check_guidance,
    check_priority,
    check_prompt,
    check_seed,
    check_strength,
    invalid,
    made_images,
    make_wish,
    nth_id,
    printable,
)
from .openai_bodies import (
    IGNORED,
    NO_BUCKET,
    QUALITIES,
    REFUSED,
    AdapterChoice,
    EditsFields,
    EditsRequest,
    Error,
    ErrorType,
    EventName,
    HowMade,
    ImagesRequest,
    ListedModel,
    Problem,
    SharedFields,
    TokenDetails,
    Usage,
)
from .parts import Part
from .statuses import HTTP


def _usable(body: type[BaseModel]) -> tuple[str, ...]:
    """The fields that clients may use."""
    return tuple(name for name, field in body.model_fields.items() if field.annotation is not type(None))


FIELDS: Final = _usable(ImagesRequest)
FORM_FIELDS: Final = _usable(EditsRequest)
_PROBLEMS: Final = {
    "missing": "is missing; describe the image in a few words",  # only the prompt is required
    "string_type": "must be text",
    "string_unicode": "holds half of a surrogate pair; send valid Unicode",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "model_type": "is not a JSON object",
}
"""Messages by pydantic's types of error."""
_PROPERTIES: Final = EditsFields.model_json_schema()["properties"]


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a multipart body."""

    fields: Mapping[str, str]
    image: bytes
    mask: bytes | None = None


@dataclass(frozen=True, slots=True)
class WantedImages:
    """What a valid body asks for, with one `GenerateRequest` per image; the cascade is not looked up yet."""

    requests: tuple[GenerateRequest, ...]
    form: ImageForm
    stream: bool = False
    edits: bool = False
    previews: bool = False
    """Whether the stream shows the light image of a request that escalates."""
    ignored: tuple[str, ...] = ()
    """The fields that are given and have no effect."""


def read_body(
    body: bytes | Form,
    *,
    request_id: str,
    idempotency_key: str,
    default_model: str | None,
    receipt: Receipt,
    settings: RouterSettings,
    stored: bool = False,
) -> WantedImages:
    """Parse a request body.

    Args:
        stored: whether images whose `response_format` is left out go into the bucket, if there is one.
        request_id: the id of the first image's request, from which those of the other images are derived.
        idempotency_key: while a call with this key is served, another one is refused; may be empty.
        default_model: the model of a body without one; None if that would be ambiguous.

    Raises:
        RequestRefused: INVALID, which names the field.
    """
    asked = _parse(body) if isinstance(body, bytes) else _parse_form(body)
    model = default_model if asked.model is None else asked.model
    if model is None:
        raise invalid("model", "is missing; give the name of a cascade")
    check_prompt(asked.prompt, limit=settings.prompt_limit)
    negative = asked.negative_prompt or None
    if negative is not None:
        check_prompt(negative, limit=settings.prompt_limit, field="negative_prompt")
    count = 1 if asked.n is None else asked.n
    if asked.partial_images and not asked.stream:
        raise invalid("partial_images", "needs `stream` to be true")
    if asked.response_format == "url":
        if not settings.bucket:
            raise invalid("response_format", NO_BUCKET)
        if asked.stream:
            raise invalid(
                "response_format", "a stream holds the images themselves; leave out `stream`, or use b64_json"
            )
    edit = None
    if isinstance(body, Form) and isinstance(asked, EditsFields):
        strength = DEFAULT_STRENGTH if asked.strength is None else check_strength(asked.strength)
        edit = Edit(body.image, body.mask, strength)
    seed, form = asked.seed, _form(asked)
    guidance = None if asked.guidance_scale is None else check_guidance(asked.guidance_scale)
    common: dict[str, Any] = {
        "model": model,
        "receipt": receipt,
        "within_s": None
        if asked.deadline_ms is None
        else check_deadline(asked.deadline_ms / 1000, limit_s=settings.deadline_limit_s, field="deadline_ms"),
        "band": check_priority(0 if asked.priority is None else asked.priority),
        "wish": make_wish(
            tier=QUALITIES[asked.quality or "auto"],
            steps=asked.num_inference_steps,
            guidance=guidance,
            lora=asked.lora.name if isinstance(asked.lora, AdapterChoice) else asked.lora or "",
            tier_field="quality",
            edits=edit is not None,
        ),
        "size": _named_size(asked.size),
        "edit": edit,
        "end_user": printable(asked.safety_identifier or asked.user or ""),
        "form": form,
        "stored": asked.response_format == "url"
        or (asked.response_format is None and stored and bool(settings.bucket)),
        "idempotency_key": idempotency_key,
    }
    requests = tuple(
        GenerateRequest(
            id=nth_id(request_id, index),
            index=index,
            prompt=Prompt(asked.prompt, negative, None if seed is None else check_seed(seed + index)),
            **common,
        )
        for index in range(count)
    )
    ignored = tuple(name for name in IGNORED if getattr(asked, name, None) is not None)
    return WantedImages(
        requests,
        form,
        stream=bool(asked.stream),
        edits=edit is not None,
        previews=bool(asked.partial_images),
        ignored=ignored,
    )


def _named_size(size: str | None) -> str:
    """The size that a body names, empty for the default; raises RequestRefused."""
    if size == "":
        raise invalid("size", "'' is not a size; leave it out, or write width and height such as 1024x1024")
    return "" if size is None or size == "auto" else size


def how_made(answer: MadeImage) -> HowMade:
    """The fields beside the image in each item of ``data``."""
    return HowMade(
        route=answer.route,
        variant=answer.variant,
        lora=answer.lora or None,
        confidence=answer.confidence,
        hardness=answer.hardness,
        latency_ms=round(answer.latency_s * 1000, 3),
        accelerator_seconds=round(answer.accelerator_s, 6),
        prompt_cut=answer.image.prompt_tokens is not None and answer.image.prompt_tokens.cut,
    )


def usage_of(answers: Sequence[MadeImage]) -> Usage:
    """What the images of an answer took. The tokens count once; of two models, those of the one that reads more do."""
    read = max(0 if answer.image.prompt_tokens is None else answer.image.prompt_tokens.read for answer in answers)
    return Usage(
        input_tokens=read,
        input_tokens_details=TokenDetails(text_tokens=read),
        total_tokens=read,
        accelerator_seconds=round(sum(answer.accelerator_s for answer in answers), 6),
    )


def images_body(wanted: WantedImages, answers: Sequence[MadeImage | RequestRefused], *, created_at: int) -> list[Part]:
    """The body of an answer, `Images`, with at least one image."""
    made = made_images(answers)
    content = {"created": created_at, **_shared_fields(wanted, made), "usage": _written(usage_of(made))}
    parts: list[Part] = [json.dumps(content).encode()[:-1] + b', "data": [']
    for index, answer in enumerate(answers):
        parts += [b", "] * (index > 0)
        if isinstance(answer, RequestRefused):
            parts.append(json.dumps(refusal_body(answer)[1]).encode())
        elif answer.stored is not None:
            parts.append(linked(_written(how_made(answer)), answer.stored.link))
        else:
            parts += with_image(_written(how_made(answer)), answer.image.encoded)
    return [*parts, b"]}"]


def stream_event(wanted: WantedImages, answer: MadeImage, *, final: bool, created_at: int) -> list[Part]:
    """A server-sent event of an image stream: a partial image, or the completed one."""
    names = (
        (EventName.EDIT_PARTIAL, EventName.EDIT_COMPLETED) if wanted.edits else (EventName.PARTIAL, EventName.COMPLETED)
    )
    kind = names[final]
    content = {
        "type": kind,
        "created_at": created_at,
        "image_index": answer.index,
        **_shared_fields(wanted, [answer]),
        **({"usage": _written(usage_of([answer]))} if final else {"partial_image_index": 0}),
        **_written(how_made(answer)),
    }
    return [f"event: {kind}\ndata: ".encode(), *with_image(content, answer.image.encoded), b"\n\n"]


def with_image(content: Mapping[str, Any], encoded: memoryview) -> list[Part]:
    """A JSON object with the file of an image as ``b64_json``; base64 needs no escaping, so it is not copied."""
    return [b'{"b64_json": "', encoded, b'", ' + json.dumps(content).encode()[1:]]


def linked(content: Mapping[str, Any], link: str) -> bytes:
    """A JSON object with the link to an image as ``url``."""
    return json.dumps({"url": link, **content}).encode()


def _written(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")


def _shared_fields(wanted: WantedImages, answers: Sequence[MadeImage]) -> dict[str, Any]:
    """The fields of an answer that hold for all its images."""
    image = answers[0].image
    light = sum(answer.route in (Route.LIGHT, Route.DEGRADED) for answer in answers)
    quality: Literal["low", "medium", "high"] = "medium" if 0 < light < len(answers) else "low" if light else "high"
    size, form = f"{image.width}x{image.height}", cast(Format, wanted.form.encoded)
    return _written(SharedFields(size=size, output_format=form, quality=quality))


def model_item(name: str, plan: Plan) -> ListedModel:
    """A cascade as a model of OpenAI's: created when its plan was issued, and owned by its namespace."""
    return ListedModel(id=name, created=_unix_s(plan.issued_at), owned_by=plan.ref.namespace)


def _unix_s(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0  # the field of a plan may hold any text


def failed_event(content: Mapping[str, Any]) -> bytes:
    """The server-sent event of a stream that ends with an error."""
    return f"event: {EventName.FAILED}\ndata: {json.dumps(content)}\n\n".encode()


def error_body(
    message: str, *, kind: ErrorType, code: Refusal | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return _written(Error(error=Problem(message=message, type=kind, code=code, param=param)))


def refusal_body(refused: RequestRefused) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a refusal."""
    status = HTTP[refused.reason]
    kind: ErrorType = "invalid_request_error" if status < 429 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    headers = {"cascade-reason": str(refused.reason)}
    if refused.reason is Refusal.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(refused.retry_after_s))
    body = error_body(refused.message, kind=kind, code=refused.reason, param=refused.field)
    return status, body, headers


def _parse(body: bytes) -> ImagesRequest:
    try:
        # A number of hundreds of digits is read as infinite, which no field accepts.
        content = json.loads(body.decode(), parse_int=lambda digits: int(digits) if len(digits) < 80 else float(digits))
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it is not JSON in UTF-8"
        raise invalid("body", f"cannot be read: {why}; send a JSON object") from None
    try:
        return ImagesRequest.model_validate(content)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], FIELDS) from None


def _parse_form(form: Form) -> EditsFields:
    try:
        return EditsFields.model_validate_strings(dict(form.fields))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], FORM_FIELDS) from None


def _refusal(problem: ErrorDetails, fields: Sequence[str]) -> RequestRefused:
    """The refusal for the first problem that pydantic found in a body with these fields."""
    kind, value = problem["type"], problem["input"]
    name = str(problem["loc"][0]) if problem["loc"] else "body"
    if name == LORA:
        return invalid(name, 'must be the name of an adapter, or {"name": …}; its source and scale are the cascade\'s')
    if kind == "extra_forbidden":
        return invalid(
            name[:80].strip() or "body", f"{name[:80]!r} is not a known field; the fields are {', '.join(fields)}"
        )
    if kind == "none_required":
        return invalid(name, f"is {EditsFields.model_fields[name].description}; leave it out")
    if kind == "literal_error" and isinstance(value, str):
        choices = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return invalid(name, REFUSED.get((name, value)) or f"{value[:40]!r} is none of {choices}")
    if name == "deadline_ms" and kind == "float_type":
        return invalid(name, "must be a number of milliseconds from now")
    if name == "priority":
        return invalid(name, "must be a name or a whole number")
    if kind in ("greater_than_equal", "less_than_equal"):
        bounds = _PROPERTIES[name]["anyOf"][0]
        return invalid(name, f"{value} is not between {bounds['minimum']} and {bounds['maximum']}")
    return invalid(name, _PROBLEMS.get(kind, "must be text"))


def _form(asked: ImagesRequest) -> ImageForm:
    """The file format of the images.

    OpenAI's ``output_compression`` is a quality, in spite of its name: 100 is the best, and 0 means the lowest, 1.
    """
    chosen, quality = asked.output_format or PNG, asked.output_compression
    if quality is None:
        return ImageForm(encoded=chosen)
    if chosen == PNG:
        if quality < 100:
            raise invalid("output_compression", "png is always lossless; leave it out, or ask for jpeg or webp")
        return ImageForm(encoded=PNG)
    return ImageForm(encoded=chosen, quality=max(quality, 1))

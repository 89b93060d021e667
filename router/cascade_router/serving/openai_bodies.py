"""The bodies of HTTP requests and answers as pydantic models.

The models check the types and fixed values of requests, and define the form of answers. The OpenAPI document is
generated from them, so that it always agrees with the code; attribute docstrings are its descriptions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cascade_api.plan import Tier
from cascade_api.reasons import Refusal, Route

from ..jobs.records import JobState
from ..pools.clients import Format
from ..requests import BANDS, LEAST_STRENGTH, MAX_GUIDANCE, MAX_IMAGES, MAX_SEED, MAX_STEPS, SHORTEST_S

MAX_PARTIAL: Final = 3
"""OpenAI's limit; in fact there is at most one partial image, the light one."""
IGNORED: Final = ("style", "moderation", "input_fidelity")
"""Fields of OpenAI's that are accepted because its clients send them, and have no effect."""
_IGNORED: Final = "ignored; the header `cascade-ignored` of the answer names it"
_LOGGED: Final = "appears in the log, shortened, beside the request's id"
QUALITIES: Final[dict[str, Tier]] = {
    "auto": "auto",
    "low": "low",
    "medium": "auto",
    "high": "high",
    "xhigh": "high",
    "max": "high",
    "standard": "auto",
    "hd": "high",
}
"""The tiers that OpenAI's qualities, of all of its models, mean here."""
NO_BUCKET: Final = "this router has no bucket that images could go into (CASCADE_ROUTER_BUCKET); use b64_json"
REFUSED: Final = {
    ("background", "transparent"): "the models make opaque images only; leave it out or use opaque",
    ("output_format", "gif"): "animations are not supported; use png, jpeg or webp",
    ("output_format", "svg"): "vector graphics are not supported; use png, jpeg or webp",
}
"""Values of OpenAI's fields that are refused, and why."""


def _unicode(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can express and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "not Unicode") from None
    return text


def _not_served(why: str) -> Any:
    """A field of OpenAI's that may only be null."""
    return Field(default=None, description=f"not supported: {why}")


def _fits(**schema: Any) -> Any:
    """Schema for the OpenAPI document alone: `requests` checks the value, for gRPC too."""
    return Field(json_schema_extra=schema)


Text = Annotated[str, AfterValidator(_unicode)]
_PRIORITY: Final[dict[str, Any]] = {"anyOf": [{"enum": [*BANDS, None]}, {"type": "integer", "minimum": 0}]}


class _RequestBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


class AdapterChoice(_RequestBody):
    """An adapter, in the form in which vLLM-Omni's clients name one."""

    name: Text


class JobRequest(_RequestBody):
    """A request for one image. `negative_prompt`, `seed`, `num_inference_steps`, `guidance_scale`, `lora`,
    `deadline_ms` and `priority` are the KServe inputs and parameters of the same names; other fields are OpenAI's."""

    model: Text | None = None
    """name of a cascade; may be left out if there is only one"""
    prompt: Annotated[Text, _fits(minLength=1, pattern=r"\S")]
    size: Annotated[Text, _fits(pattern=r"^(auto|[1-9][0-9]*x[1-9][0-9]*)$")] | None = None
    """auto (the default), or a size that the cascade offers, such as 1024x1024"""
    response_format: Literal["b64_json", "url"] | None = None
    """url, where the router has a bucket: a link to the image that expires; default: url for jobs if there is a bucket,
    else b64_json"""
    output_format: Format | None = None
    """default: png"""
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    """quality of jpeg and webp, 100 being the best; png allows 100 only"""
    background: Literal["auto", "opaque"] | None = None
    """images are always opaque"""
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    """low: the light model makes the image; high, hd, xhigh and max: the heavy one; otherwise the plan decides"""
    style: Literal["vivid", "natural"] | None = Field(default=None, description=_IGNORED)
    moderation: Literal["auto", "low"] | None = Field(default=None, description=_IGNORED)
    user: Text | None = Field(default=None, description=_LOGGED)
    safety_identifier: Text | None = Field(default=None, description=_LOGGED)
    complexity: None = _not_served("the cascade decides how much is computed")
    frame_count: None = _not_served("images are not animated")
    frame_duration_ms: None = _not_served("images are not animated")
    svg: None = _not_served("images consist of pixels")
    negative_prompt: Annotated[Text, _fits(pattern=r"^$|\S")] | None = None
    num_inference_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    """a variant with this number of steps makes the image; refused if there is none"""
    guidance_scale: Annotated[float, _fits(minimum=0, maximum=MAX_GUIDANCE)] | None = None
    """a variant with this guidance makes the image; refused if there is none"""
    lora: Text | AdapterChoice | None = None
    """name of an adapter of the cascade's variants; only variants that have it make the image"""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """the same seed repeats an image if the same variant makes it; the cascade chooses that: compare `variant`"""
    deadline_ms: Annotated[float, _fits(minimum=SHORTEST_S * 1000)] | None = None
    """milliseconds from now; default: the cascade's objective"""
    priority: Text | int | None = Field(default=None, json_schema_extra=_PRIORITY)
    """0 is the default, 1 the highest, 3 and above the lowest"""


class ImagesRequest(JobRequest):
    """A request for one image or several, which are sent in one answer or as a stream of events."""

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    stream: bool | None = None
    """answer with server-sent events, one for each image as soon as it is made"""
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL)] | None = None
    """with `stream`: if above 0, the light image is sent while a heavy one is made"""


class EditsFields(ImagesRequest):
    """The fields of a request to change an image, beside its files."""

    strength: Annotated[float, _fits(minimum=LEAST_STRENGTH, maximum=1)] | None = None
    """how much is drawn anew: the image is noised so far and drawn from there; 1 leaves nothing of it, default: 0.8"""
    input_fidelity: Literal["high", "low"] | None = Field(default=None, description=_IGNORED + "; use `strength`")


class EditsRequest(EditsFields):
    """A request to change an image, as multipart/form-data. Each image of `n` is drawn from the same one."""

    image: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]
    """png, jpeg or webp (or `image[]` with one file); cut around its centre and scaled to the cascade's size"""
    mask: Annotated[bytes, Field(json_schema_extra={"format": "binary"})] | None = None
    """png or webp of the same size: where it is transparent, the image is drawn anew, and elsewhere it is kept"""


class _ResponseBody(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)


ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class Problem(_ResponseBody):
    """Why there is no answer."""

    message: str
    type: ErrorType
    param: str | None = None
    """the field that is wrong"""
    code: Refusal | None = None


class HowMade(_ResponseBody):
    """How an image was made."""

    route: Route
    variant: str
    lora: str | None
    """the adapter with which it was drawn"""
    confidence: float | None
    hardness: float | None
    latency_ms: float
    accelerator_seconds: float
    """the workers' time that it took, of both models together"""
    prompt_cut: bool
    """whether the prompt was longer than the model reads, so that its end had no effect"""


class Image(HowMade):
    """An image, and how it was made."""

    b64_json: str


class LinkedImage(HowMade):
    """An image in the bucket, and how it was made."""

    url: str
    """a link to it that expires"""


class MissingImage(_ResponseBody):
    """In place of an image that was not made, though others of the call were."""

    error: Problem


class TokenDetails(_ResponseBody):
    """Images are not counted in tokens."""

    image_tokens: Literal[0] = 0
    text_tokens: int = 0


class Usage(_ResponseBody):
    """What the images of an answer took."""

    input_tokens: int
    """tokens of the prompt that the model read, once for all images"""
    input_tokens_details: TokenDetails
    output_tokens: Literal[0] = 0
    output_tokens_details: TokenDetails = TokenDetails()
    total_tokens: int
    accelerator_seconds: float
    """the workers' time, for all images together"""


class SharedFields(_ResponseBody):
    """The fields of OpenAI's answers that hold for all images of the answer."""

    size: str
    output_format: Format
    background: Literal["opaque"] = "opaque"
    quality: Literal["low", "medium", "high"]
    """low, medium or high if the light model made all, some or none of the images"""


class Images(SharedFields):
    """The images of a call."""

    created: int
    usage: Usage
    data: list[Image | LinkedImage | MissingImage]


class EventName(StrEnum):
    """Names of a stream's events."""

    COMPLETED = "image_generation.completed"
    PARTIAL = "image_generation.partial_image"
    EDIT_COMPLETED = "image_edit.completed"
    EDIT_PARTIAL = "image_edit.partial_image"
    FAILED = "error"


class StreamEvent(_ResponseBody):
    """A server-sent event of a stream."""

    event: EventName
    data: str
    """JSON"""


class ListedModel(_ResponseBody):
    """A cascade, in the form of a model of OpenAI's."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """when its plan was issued"""
    owned_by: str
    """its namespace"""


class Models(_ResponseBody):
    """The cascades."""

    object: Literal["list"] = "list"
    data: list[ListedModel]


class Error(_ResponseBody):
    """An error in OpenAI's form."""

    error: Problem


class JobStatus(_ResponseBody):
    """A job without its result."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    created_at: float
    deadline_at: float
    finished_at: float | None


class Job(JobStatus):
    """A job, with its result or its error once it has ended."""

    result: Image | LinkedImage | None
    error: Problem | None

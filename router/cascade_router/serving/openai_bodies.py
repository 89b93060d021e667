"""The HTTP side's bodies as models: what clients may send, and what they are told.

They check the types and fixed values of what comes, give the answers their form, and the OpenAPI document is made from
them, so it cannot say anything else. Attribute docstrings are its descriptions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cascade_api.reasons import Refusal, Route

from ..jobs.records import JobState
from ..pools.clients import Format
from ..requests import BANDS, MAX_IMAGES, MAX_SEED, SHORTEST_S, TIER_PATTERN

MAX_PARTIAL: Final = 3
"""OpenAI's bound; there is at most one partial image, the light one."""
_NO_EFFECT: Final = "taken for OpenAI's clients, without effect"
REFUSED: Final = {
    ("response_format", "url"): "images are not kept for a URL to find them; leave it out or use b64_json",
    ("background", "transparent"): "the models make opaque images only; leave it out or use opaque",
    ("output_format", "gif"): "moving pictures are not made; use png, jpeg or webp",
    ("output_format", "svg"): "drawings are not made; use png, jpeg or webp",
}
"""Values of OpenAI's that are not served, and why."""


def _unicode(text: str) -> str:
    """JSON can say half of a surrogate pair, which cannot be sent on."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "not Unicode") from None
    return text


def _not_served(why: str) -> Any:
    """A field of OpenAI's that may only be null."""
    return Field(default=None, description=f"not served: {why}")


def _fits(**schema: Any) -> Any:
    """What the document says of a value that `requests` checks, for gRPC too."""
    return Field(json_schema_extra=schema)


Text = Annotated[str, AfterValidator(_unicode)]
_PRIORITY: Final[dict[str, Any]] = {"anyOf": [{"enum": [*BANDS, None]}, {"type": "integer", "minimum": 0}]}


class _Sent(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


class JobRequest(_Sent):
    """One image. `negative_prompt`, `seed`, `deadline_ms`, `priority` and `tier` are the KServe inputs and parameters
    of the same names, the other fields OpenAI's."""

    model: Text | None = None
    """a cascade; may be left out where there is one"""
    prompt: Annotated[Text, _fits(minLength=1, pattern=r"\S")]
    size: Annotated[Text, _fits(pattern=r"^(auto|[1-9][0-9]*x[1-9][0-9]*)$")] | None = None
    """auto, or the size of the cascade, as 1024x1024"""
    response_format: Literal["b64_json"] | None = None
    """the only one"""
    output_format: Format | None = None
    """png unless given"""
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    """quality of jpeg and webp, 100 being the best; png has no other"""
    background: Literal["auto", "opaque"] | None = None
    """opaque in any case"""
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        default=None, description=_NO_EFFECT
    )
    style: Literal["vivid", "natural"] | None = Field(default=None, description=_NO_EFFECT)
    moderation: Literal["auto", "low"] | None = Field(default=None, description=_NO_EFFECT)
    user: Text | None = Field(default=None, description=_NO_EFFECT)
    safety_identifier: Text | None = Field(default=None, description=_NO_EFFECT)
    complexity: None = _not_served("the cascade decides how much is computed")
    frame_count: None = _not_served("moving pictures are not made")
    frame_duration_ms: None = _not_served("moving pictures are not made")
    svg: None = _not_served("drawings are not made")
    negative_prompt: Annotated[Text, _fits(pattern=r"^$|\S")] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """repeats an image made by the same variant, which the cascade chooses: compare `variant`"""
    deadline_ms: Annotated[float, _fits(minimum=SHORTEST_S * 1000)] | None = None
    """milliseconds from now; the cascade's objective unless given"""
    priority: Text | int | None = Field(default=None, json_schema_extra=_PRIORITY)
    """0 is the default, 1 the highest, 3 and above the lowest"""
    tier: Annotated[Text, _fits(pattern=f"^({TIER_PATTERN})?$")] | None = None


class ImagesRequest(JobRequest):
    """One image or several, at once or as a stream of events."""

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    stream: bool | None = None
    """server-sent events; one image only"""
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL)] | None = None
    """with `stream`: above 0, the light image is shown while a heavy one is made"""


class _Told(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)


class HowMade(_Told):
    """How an image was made."""

    route: Route
    variant: str
    confidence: float | None
    hardness: float | None
    latency_ms: float


class Image(HowMade):
    """An image, and how it was made."""

    b64_json: str


class TokenDetails(_Told):
    """Nothing, in detail."""

    image_tokens: Literal[0] = 0
    text_tokens: Literal[0] = 0


class Usage(_Told):
    """The usage that OpenAI's clients expect; nothing here is counted in tokens."""

    input_tokens: Literal[0] = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: Literal[0] = 0
    output_tokens_details: TokenDetails = TokenDetails()
    total_tokens: Literal[0] = 0


class AllMade(_Told):
    """What OpenAI's answers tell of all their images."""

    size: str
    output_format: Format
    background: Literal["opaque"] = "opaque"
    quality: Literal["low", "medium", "high"]
    """whether the light model made all images, some or none"""


class Images(AllMade):
    """The images of a call."""

    created: int
    usage: Usage = Usage()
    data: list[Image]


class EventName(StrEnum):
    """Names of a stream's events."""

    COMPLETED = "image_generation.completed"
    PARTIAL = "image_generation.partial_image"
    FAILED = "error"


class StreamEvent(_Told):
    """A server-sent event of a stream."""

    event: EventName
    data: str
    """JSON"""


class ListedModel(_Told):
    """A cascade, as OpenAI's clients see a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """when its plan was made"""
    owned_by: str
    """its namespace"""


class Models(_Told):
    """The cascades."""

    object: Literal["list"] = "list"
    data: list[ListedModel]


ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class Problem(_Told):
    """Why there is no answer."""

    message: str
    type: ErrorType
    param: str | None = None
    """the field that is wrong"""
    code: Refusal | None = None


class Error(_Told):
    """An error in OpenAI's form."""

    error: Problem


class JobTold(_Told):
    """A job, but for what came of it."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    created_at: float
    deadline_at: float
    finished_at: float | None


class Job(JobTold):
    """A job."""

    result: Image | None
    error: Problem | None

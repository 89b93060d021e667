"""One request and its answer as all protocols see them, and what makes a request invalid."""

from __future__ import annotations

import hashlib
import math
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cascade_api.plan import Tier
from cascade_api.reasons import Refusal, Route

from .cascade.choosing import NO_WISH, Wish
from .pools.clients import PNG_FILE, ImageForm, Prompt, TritonImage
from .tracing import Headers

BANDS: Final = {"high": 0, "normal": 1, "low": 2}
"""Priorities by name; 0 is served first."""
ID_LENGTH: Final = 128
"""Characters of a client's request id that are logged and sent on."""
KEY_LENGTH: Final = 255
"""Characters of an idempotency key."""
TIERS: Final[dict[str, Tier]] = {"auto": "auto", "low": "low", "medium": "auto", "high": "high"}
"""Tiers by the names that clients use."""
_BLANK_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
"""Unicode's categories of what leaves no mark: controls, formats such as the zero-width ones, separators."""
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
"""What leaves none either, though it counts as a letter, a symbol or a mark: fillers, joiners, variation selectors."""
SHORTEST_S: Final = 0.001
"""The shortest deadline: nothing is made in less."""
MAX_SEED: Final = 2**63 - 1
STEPS: Final = "num_inference_steps"
GUIDANCE: Final = "guidance_scale"
"""The names under which clients of all protocols name settings."""
LORA: Final = "lora"
"""The name under which clients of all protocols name an adapter."""
MAX_STEPS: Final = 10_000
MAX_GUIDANCE: Final = 1000
STRENGTH: Final = "strength"
"""The name under which clients of all protocols say how much of a given image is drawn anew."""
DEFAULT_STRENGTH: Final = 0.8
LEAST_STRENGTH: Final = 0.01
MAX_IMAGES: Final = 10
"""Images of one call."""


class RequestRefused(Exception):
    """A request that gets no image: why, in a word and in a sentence for the client.

    ``field`` names the offending input, ``retry_after_s`` when asking again could help.
    """

    def __init__(
        self, reason: Refusal, message: str, *, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s if retry_after_s is not None and math.isfinite(retry_after_s) else None


def invalid(field: str, message: str) -> RequestRefused:
    """A refusal because of what the client sent."""
    return RequestRefused(Refusal.INVALID, f"{field}: {message}", field=field)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Who called, and when: noted once, by the protocol, when the head of a call is there; all times count from it."""

    at: float
    """Seconds on the router's monotonic clock."""
    call_s: float | None = None
    """Seconds from then that the call itself lasts; None: as long as it takes."""
    tenant: str = ""
    """Empty where everybody may ask."""
    trace: Headers = ()
    """The trace of the client that this is a part of."""

    def deadline(self, within_s: float) -> float:
        """When an image must have been sent that is wanted ``within_s`` seconds from receipt; the call may end sooner.

        On the clock of ``at``.
        """
        return self.at + (within_s if self.call_s is None else min(within_s, self.call_s))


@dataclass(frozen=True, slots=True)
class Edit:
    """Files that a client gives: an image that is to be changed, and a mask that is transparent where it is."""

    image: bytes = field(repr=False)
    mask: bytes | None = field(default=None, repr=False)
    strength: float = DEFAULT_STRENGTH


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One valid request for one image."""

    id: str
    """The id in logs, traces and queues. It is printable, but not unique, because clients choose it."""
    model: str
    prompt: Prompt
    receipt: Receipt
    form: ImageForm = PNG_FILE
    within_s: float | None = None
    """Seconds from receipt within which the client wants its image; None: the cascade's objective. The deadline that
    follows from it is set when the request is admitted, see `admission`."""
    idempotency_key: str = ""
    """While a call with this key is served, the same tenant's next one is refused; empty: any number at a time."""
    band: int = BANDS["normal"]
    wish: Wish = NO_WISH
    """What the client says about the model that makes the image."""
    size: str = ""
    """Width and height of the image, such as ``1024x768``; empty: the cascade's default."""
    end_user: str = ""
    """The client's own user for whom it asks, printable, for the log."""
    index: int = 0
    """Its place among the images of its call."""
    edit: Edit | None = None
    """What the image is drawn from beside the prompt; `given_images` turns it into pixels of the prompt."""
    stored: bool = False
    """Whether its image is put into the bucket, and the client gets a link to it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an image is in the bucket: its name there, and a link to it that works for a while."""

    name: str
    link: str


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image and how it was made; ``confidence`` is None if the light model was skipped."""

    request_id: str
    cascade: str
    image: TritonImage
    variant: str
    route: Route
    hardness: float
    confidence: float | None
    latency_s: float
    """From receipt until the image was made."""
    index: int = 0
    """Its place among the images of its call."""
    lora: str = ""
    """The adapter with which it was drawn, by its name; empty: none."""
    accelerator_s: float = 0.0
    """The part of the workers' time that this request took, of light and heavy model together, as they report it."""
    stored: Stored | None = None
    """Set if the image is in the bucket, and no longer here."""


def made_images(answers: Iterable[MadeImage | RequestRefused]) -> list[MadeImage]:
    """Of the answers of a call, the images."""
    return [answer for answer in answers if isinstance(answer, MadeImage)]


def nth_id(stem: str, index: int) -> str:
    """The id of the image at ``index`` of a call whose own id is ``stem``."""
    return stem if index == 0 else f"{stem[:120]}:{index}"


def new_id() -> str:
    return os.urandom(16).hex()


def printable_id(text: str) -> str:
    """The id that a client chose, fit for headers and logs: shortened, all but printable ASCII escaped.

    A new id where the client chose none.
    """
    return printable(text) or new_id()


def printable(text: str) -> str:
    """A client's text, fit for headers and logs: shortened, all but printable ASCII escaped."""
    escaped = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in text[:ID_LENGTH])
    return escaped[:ID_LENGTH].strip()


def unique_of(key: str, *, tenant: str) -> str:
    """Letters and digits that stand for an idempotency key: the same for the same tenant and key, else others."""
    return hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()[:32]


def check_key(text: str, *, field: str) -> str:
    """An idempotency key of any characters."""
    if len(text) > KEY_LENGTH:
        raise invalid(field, f"has {len(text)} characters; at most {KEY_LENGTH} are allowed")
    return text


def check_prompt(text: str, *, limit: int, field: str = "prompt") -> str:
    """A prompt of 1 to ``limit`` characters, of which at least one is seen."""
    if len(text) > limit:
        raise invalid(field, f"has {len(text)} characters; at most {limit} are allowed")
    if not any(map(_is_visible, text)):
        raise invalid(field, "is empty; describe the image in a few words")
    return text


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in _BLANK_CATEGORIES and character not in _BLANK


def decode_prompt(data: bytes, *, limit: int, field: str = "prompt") -> str:
    """A prompt from UTF-8 bytes."""
    if len(data) > limit * 4:
        raise invalid(field, f"has {len(data)} bytes; at most {limit} characters are allowed")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise invalid(field, f"is not valid UTF-8 (byte {error.start}); send UTF-8 text") from None
    return check_prompt(text, limit=limit, field=field)


def check_seed(value: int, *, field: str = "seed") -> int:
    """A seed of 0 or more that fits into 63 bits."""
    if not 0 <= value <= MAX_SEED:
        raise invalid(field, f"{value} is not between 0 and {MAX_SEED}")
    return value


def check_deadline(seconds: float, *, limit_s: float, field: str) -> float:
    """The time within which an image is wanted: seconds from receipt, `SHORTEST_S` to ``limit_s``."""
    if not math.isfinite(seconds):
        raise invalid(field, "is not a finite number; give milliseconds from now")
    if seconds < SHORTEST_S:
        raise invalid(field, f"must be at least {SHORTEST_S * 1000:g} ms from now")
    if seconds > limit_s:
        raise invalid(field, f"{seconds * 1000:g} ms is longer than the limit of {limit_s * 1000:g} ms")
    return seconds


def check_priority(value: str | int, *, field: str = "priority") -> int:
    """The band of a priority: its name, or Triton's number (0 default, 1 highest, 2, and 3 or more the lowest)."""
    if isinstance(value, str):
        if value in BANDS:
            return BANDS[value]
        if not value.isdecimal():
            raise invalid(field, f"{value[:40]!r} is none of {', '.join(BANDS)}")
        value = int(value[:9])
    if value < 0:
        raise invalid(field, f"{value} is not a priority; use {', '.join(BANDS)}, or 1 (highest) to {len(BANDS)}")
    return BANDS["normal"] if value == 0 else min(value, len(BANDS)) - 1


def check_tier(name: str, *, field: str = "tier") -> Tier:
    """A tier by its name; without a name, the plan decides."""
    if name and name not in TIERS:
        raise invalid(field, f"{name[:40]!r} is none of {', '.join(TIERS)}")
    return TIERS.get(name, "auto")


def check_steps(steps: int, *, field: str = STEPS) -> int:
    """A number of denoising steps."""
    if not 0 <= steps <= MAX_STEPS:
        raise invalid(field, f"{steps} is not between 0 and {MAX_STEPS}")
    return steps


def check_guidance(scale: float, *, field: str = GUIDANCE) -> float:
    """A scale of classifier-free guidance."""
    if not 0 <= scale <= MAX_GUIDANCE:
        raise invalid(field, f"{scale:g} is not between 0 and {MAX_GUIDANCE}")
    return scale


def check_strength(part: float, *, field: str = STRENGTH) -> float:
    """How much of a given image is drawn anew."""
    if not LEAST_STRENGTH <= part <= 1:
        raise invalid(field, f"{part:g} is not between {LEAST_STRENGTH} and 1; 1 leaves nothing of the image")
    return part


def make_wish(
    *, tier: Tier, steps: int | None, guidance: float | None, lora: str, tier_field: str, edits: bool = False
) -> Wish:
    """A wish from its parts; a tier and settings together would be two answers to one question."""
    wish = Wish(tier, steps, guidance, lora, edits)
    if wish.names_settings and tier != "auto":
        raise invalid(
            tier_field, f"cannot be given together with {STEPS} or {GUIDANCE}, which name the variant already"
        )
    return wish

"""Parameters of KServe v2 messages: some are obeyed, some are refused by name, and all others are ignored.

Clients of Triton send parameters that have no meaning for this service, for example `binary_data_size`, `sequence_id`,
or what a service mesh or a wrapper adds. Triton ignores them, and so does the router. It only refuses a parameter whose
sender must believe that it changes the image or where the image is put, because ignoring that silently would mislead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.names import (
    INPUT_HEIGHT,
    INPUT_IMAGE,
    INPUT_MASK,
    INPUT_NEGATIVE_PROMPT,
    INPUT_PROMPT,
    INPUT_SEED,
    INPUT_WIDTH,
    OUTPUT_IMAGE_ENCODED,
    PARAMETER_IMAGE_FORMAT,
    PARAMETER_IMAGE_QUALITY,
)
from cascade_api.settings import RouterSettings

from ..cascade.choosing import NO_WISH, Wish
from ..pools.clients import FORMATS, PNG
from ..requests import (
    GUIDANCE,
    LORA,
    STEPS,
    STRENGTH,
    check_deadline,
    check_guidance,
    check_key,
    check_priority,
    check_steps,
    check_strength,
    check_tier,
    invalid,
    make_wish,
)

_FIXED: Final = "is fixed by the cascade's variants; leave it out, or use a cascade whose variants have the value"
_SIDE: Final = "is an input; send it as an INT64 tensor, with the other side"
_COUNT: Final = "is not needed: the number of prompts decides; send one prompt for each image"
_OUTPUT: Final = (
    f"is not part of this protocol; ask for the output {OUTPUT_IMAGE_ENCODED}, with {PARAMETER_IMAGE_FORMAT} and "
    f"{PARAMETER_IMAGE_QUALITY}"
)
_SHARED_MEMORY: Final = "is not supported: shared memory works on one machine only; send tensors in the message"

REFUSED_OF_REQUESTS: Final[Mapping[str, str]] = {
    INPUT_PROMPT: "is an input; send it as a BYTES tensor",
    INPUT_NEGATIVE_PROMPT: "is an input; send it as a BYTES tensor",
    INPUT_SEED: "is an input; send it as an INT64 tensor",
    **dict.fromkeys((INPUT_IMAGE, INPUT_MASK), "is an input; send the file as a BYTES tensor"),
    **dict.fromkeys(("steps", "num_steps"), f"is called {STEPS} here"),
    **dict.fromkeys(("guidance", "cfg_scale"), f"is called {GUIDANCE} here"),
    "quality": "is called tier here",
    **dict.fromkeys(("loras", "adapter", "adapters"), f"is called {LORA} here, and names one adapter"),
    **dict.fromkeys(("scheduler", "sampler"), _FIXED),
    **dict.fromkeys((INPUT_WIDTH, INPUT_HEIGHT), _SIDE),
    "size": f"is not part of this protocol; send the inputs {INPUT_WIDTH} and {INPUT_HEIGHT}",
    **dict.fromkeys(("n", "num_images", "num_images_per_prompt"), _COUNT),
    **dict.fromkeys(("output_format", "output_compression", "response_format"), _OUTPUT),
}  # fmt: skip
"""Parameters of a request that would change its images, and what to do instead."""
REFUSED_OF_INPUTS: Final[Mapping[str, str]] = dict.fromkeys(
    ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"), _SHARED_MEMORY
)
"""Parameters of an input that refer to data outside the message."""
REFUSED_OF_OUTPUTS: Final[Mapping[str, str]] = {
    **REFUSED_OF_INPUTS,
    "classification": "is not supported: no output is a list of class scores; leave it out",
}
"""Parameters of an output that would change it."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options that the parameters of a request give."""

    within_s: float | None = None
    """Seconds from receipt; None: the cascade's objective."""
    band: int = check_priority(0)
    wish: Wish = NO_WISH
    strength: float | None = None
    """How much of a given image is drawn anew; None: the client does not say."""
    idempotency_key: str = ""
    image_format: str = PNG
    """The format of the output ``image_encoded``."""
    image_quality: int | None = None
    """The quality of JPEG and WebP, 1 to 100; None: the model's choice."""


def read_parameters(parameters: Mapping[str, Any], *, settings: RouterSettings) -> RequestOptions:
    """The options of a request. Raises RequestRefused."""
    values = {name: _value(parameter) for name, parameter in parameters.items()}
    refuse("parameters", values, REFUSED_OF_REQUESTS)
    return RequestOptions(
        within_s=_within(values, limit_s=settings.deadline_limit_s),
        band=_priority(values.get("priority", 0)),
        wish=make_wish(
            tier=check_tier(_text(values, "tier")),
            steps=_whole(values, STEPS, check_steps),
            guidance=check_guidance(_number(values, GUIDANCE)) if GUIDANCE in values else None,
            lora=_text(values, LORA),
            tier_field="tier",
        ),
        strength=check_strength(_number(values, STRENGTH)) if STRENGTH in values else None,
        idempotency_key=check_key(_text(values, "idempotency_key"), field="idempotency_key"),
        image_format=_format(_text(values, PARAMETER_IMAGE_FORMAT) or PNG),
        image_quality=_quality(values.get(PARAMETER_IMAGE_QUALITY)),
    )


def refuse(field: str, names: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Raise RequestRefused for the first of ``names`` that is in ``refused``, which maps names to reasons."""
    for name in names:
        reason = refused.get(name.lower())
        if reason is not None:
            raise invalid(field, f"parameter {name!r} {reason}")


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _within(values: Mapping[str, Any], *, limit_s: float) -> float | None:
    """Seconds from ``deadline_ms``, or else from ``timeout`` as Triton's clients send it (microseconds, 0: none)."""
    if "deadline_ms" in values:
        return check_deadline(_number(values, "deadline_ms") / 1000, limit_s=limit_s, field="deadline_ms")
    if "timeout" in values:
        seconds = _number(values, "timeout") / 1e6
        return check_deadline(min(seconds, limit_s), limit_s=limit_s, field="timeout") if seconds else None
    return None


def _priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise invalid("priority", "must be a name or a whole number")
    return check_priority(value)


def _format(name: str) -> str:
    if name not in FORMATS:
        raise invalid(PARAMETER_IMAGE_FORMAT, f"{name[:40]!r} is none of {', '.join(FORMATS)}")
    return name


def _quality(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100):
        raise invalid(PARAMETER_IMAGE_QUALITY, "must be a whole number from 1 to 100")
    return value


def _whole(values: Mapping[str, Any], name: str, check: Callable[[int], int]) -> int | None:
    value = values.get(name)
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise invalid(name, "must be a whole number")
    return None if value is None else check(value)


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        raise invalid(name, "must be text")
    return value


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise invalid(name, "must be a number")
    try:
        return float(value)
    except ValueError:
        raise invalid(name, f"{value[:40]!r} is not a number") from None  # type: ignore[index]

"""Fields of OpenAI's images API that every client may send: what each may be, and what has an effect here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..pools.clients import FORMATS, PNG, ImageForm
from ..requests import invalid

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "response_format": ("b64_json",),
    "output_format": FORMATS,
    "background": ("auto", "opaque"),
    "quality": ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"),
    "style": ("vivid", "natural"),
    "moderation": ("auto", "low"),
}
"""What a field may be, beside null. Of these, `output_format` alone has an effect."""
TEXTS: Final = ("user", "safety_identifier")
"""Fields of any text, without an effect."""
REFUSED: Final[Mapping[tuple[str, str], str]] = {
    ("response_format", "url"): "images are not kept for a URL to find them; leave it out or use b64_json",
    ("background", "transparent"): "the models make opaque images only; leave it out or use opaque",
    ("output_format", "gif"): "moving pictures are not made; use png, jpeg or webp",
    ("output_format", "svg"): "drawings are not made; use png, jpeg or webp",
}
"""Values of OpenAI's that are not served, and why."""
NOT_SERVED: Final[Mapping[str, str]] = {
    "complexity": "the cascade decides how much is computed",
    "frame_count": "moving pictures are not made",
    "frame_duration_ms": "moving pictures are not made",
    "svg": "drawings are not made",
}
"""Fields of OpenAI's that may only be null, and why."""
NAMES: Final = (*CHOICES, *TEXTS, "output_compression")


def text(content: Mapping[str, Any], name: str) -> str | None:
    """A field that is text or null. Raises Refused."""
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, "must be text")
    return value


def whole(content: Mapping[str, Any], name: str) -> int | None:
    """A field that is a whole number or null. Raises Refused."""
    value = content.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise invalid(name, "must be a whole number")
    if value is not None and abs(value) >= 10**80:
        raise invalid(name, "is a number far too large")
    return value


def check_choices(content: Mapping[str, Any]) -> None:
    """Every field with a fixed set of values has one of them. Raises Refused."""
    for name in TEXTS:
        text(content, name)
    for name, choices in CHOICES.items():
        value = text(content, name)
        if value is None or value in choices:
            continue
        why = REFUSED.get((name, value))
        raise invalid(name, why or f"{value[:40]!r} is none of {', '.join(choices)}")
    for name, why in NOT_SERVED.items():
        if content.get(name) is not None:
            raise invalid(name, f"is not served: {why}; leave it out")


def output_form(content: Mapping[str, Any]) -> ImageForm:
    """The form of the images' bytes. Raises Refused.

    OpenAI's ``output_compression`` is a quality in spite of its name: 100 is the best, and 0 means the least, 1.
    """
    chosen = text(content, "output_format") or PNG
    quality = whole(content, "output_compression")
    if quality is None:
        return ImageForm(encoded=chosen)
    if not 0 <= quality <= 100:
        raise invalid("output_compression", f"{quality} is not between 0 and 100")
    if chosen == PNG:
        if quality < 100:
            raise invalid("output_compression", "png is never lossy; leave it out, or ask for jpeg or webp")
        return ImageForm(encoded=PNG)
    return ImageForm(encoded=chosen, quality=max(quality, 1))

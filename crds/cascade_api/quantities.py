"""Durations, percentages, money and sizes as the resources write them: strings and integers, never floats.

Kubernetes API conventions forbid floats in resources: a round trip through another client may change
them. Durations are ``^[0-9]+(ms|s|m|h)$``, shares are integer percent, qualities integer thousandths.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

from pydantic import Field

DURATION_PATTERN = r"^[0-9]+(ms|s|m|h)$"
DURATION_FORM = "a duration: write a whole number and ms, s, m or h, such as 60s"
MONEY_PATTERN = r"^[0-9]+(\.[0-9]{1,4})?$"
NUMBER_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,3})?$"
SIZE_PATTERN = r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$"

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=12)]
Money = Annotated[str, Field(pattern=MONEY_PATTERN, max_length=16)]
Number = Annotated[str, Field(pattern=NUMBER_PATTERN, max_length=7)]
"""A number with a fraction, as text."""
Size = Annotated[str, Field(pattern=SIZE_PATTERN, max_length=9)]
"""Width and height of an image in pixels, such as ``1024x768``."""
Integer = Annotated[int, Field(strict=True)]
"""A whole number, as an API server takes it: neither "4" nor 4.0 nor true."""
Percent = Annotated[Integer, Field(ge=0, le=100)]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def duration_s(text: str) -> float:
    """Seconds in a duration such as ``250ms``, ``60s``, ``10m`` or ``2h``.

    Raises ValueError, naming the accepted form, for anything else.
    """
    match = re.fullmatch(r"([0-9]+)(ms|s|m|h)", text)
    if match is None:
        raise ValueError(f"{text!r} is not {DURATION_FORM}")
    return int(match[1]) * _SECONDS[match[2]]


def longer(text: str, limit: str) -> bool:
    """Whether a duration is longer than another."""
    return duration_s(text) > duration_s(limit)


def format_duration(seconds: float) -> str:
    """The shortest duration string for a non-negative number of seconds, exact to a millisecond."""
    millis = round(seconds * 1000)
    if millis < 0:
        raise ValueError(f"a duration cannot be negative: {seconds}")
    if millis % 1000:
        return f"{millis}ms"
    whole = millis // 1000
    if whole and whole % 3600 == 0:
        return f"{whole // 3600}h"
    if whole and whole % 60 == 0:
        return f"{whole // 60}m"
    return f"{whole}s"


def pixels(size: str) -> tuple[int, int]:
    """Width and height of a size such as ``1024x768``; raises ValueError for anything else."""
    if re.fullmatch(SIZE_PATTERN, size) is None:
        raise ValueError(f"{size!r} is not a size: write width and height in pixels, such as 1024x768")
    width, _, height = size.partition("x")
    return int(width), int(height)


def money(text: str) -> Decimal:
    """Amount of money per hour, in the currency of the operator's class prices."""
    return Decimal(text)


def quantity(text: str | int | float) -> Decimal:
    """A Kubernetes quantity such as ``1``, ``500m``, ``2Gi`` or ``1e3``; nothing readable counts as 0."""
    text = str(text)
    number = text.rstrip("numkMGTPEi") if not text[-1:].isdigit() else text
    try:
        return Decimal(number) * _FACTORS.get(text[len(number) :], Decimal(1))
    except InvalidOperation:
        return Decimal(0)

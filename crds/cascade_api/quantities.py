"""Durations, percentages, money and sizes in the form of the resources: strings and integers, never floats.

The conventions of the Kubernetes API forbid floats in resources, because other clients may change them when they write
them back. Durations match ``^[0-9]+(ms|s|m|h)$``, shares are whole percents, qualities whole thousandths.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from .openapi import INT_OR_STRING

DURATION_PATTERN = r"^[0-9]+(ms|s|m|h)$"
DURATION_FORM = "a duration: write a whole number and ms, s, m or h, such as 60s"
MONEY_PATTERN = r"^[0-9]+(\.[0-9]{1,4})?$"
NUMBER_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,3})?$"
METRIC_PATTERN = r"^-?[0-9]{1,6}(\.[0-9]{1,4})?$"
METRIC_FORM = 'write the number in quotes, with at most 4 decimals, such as "24.50"'
SIZE_PATTERN = r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$"

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=12)]
Money = Annotated[str, Field(pattern=MONEY_PATTERN, max_length=16)]
Number = Annotated[str, Field(pattern=NUMBER_PATTERN, max_length=7)]
"""A number that may have a fraction, as text."""
Size = Annotated[str, Field(pattern=SIZE_PATTERN, max_length=9)]
"""Width and height of an image in pixels, such as ``1024x768``."""
LONGEST_SIDE: Final = 4096
"""Pixels of the longest side that a cascade offers: workers have whole batches in memory, and routers several."""
_SIDE: Final = "([1-9][0-9]{1,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-6])"
OFFERED_PATTERN: Final = f"^{_SIDE}x{_SIDE}$"
"""Sizes whose sides are at most `LONGEST_SIDE`."""
MOST_SIZES: Final = 8
"""Sizes that a cascade offers at most."""
Integer = Annotated[int, Field(strict=True)]
"""A whole number; as in an API server, "4", 4.0 and true are refused."""
Percent = Annotated[Integer, Field(ge=0, le=100)]


def _metric_value(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and re.fullmatch(METRIC_PATTERN[1:-1], text):
        return text
    raise PydanticCustomError("metric_value", f"is not a value of a metric: {METRIC_FORM}")


MetricValue = Annotated[
    str,
    PlainValidator(_metric_value),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": METRIC_PATTERN,
            "maxLength": 12,
            INT_OR_STRING: True,
        }
    ),
]
"""A value of a quality metric: text, or a whole number. It is kept as text."""

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

    Raises ValueError, which names the accepted form, for any other text.
    """
    match = re.fullmatch(r"([0-9]+)(ms|s|m|h)", text)
    if match is None:
        raise ValueError(f"{text!r} is not {DURATION_FORM}")
    return int(match[1]) * _SECONDS[match[2]]


def longer(text: str, limit: str) -> bool:
    """Whether a duration is longer than ``limit``."""
    return duration_s(text) > duration_s(limit)


def format_duration(seconds: float) -> str:
    """The shortest duration for a number of seconds, exact to a millisecond. Raises ValueError if it is negative."""
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
    """Width and height of a size such as ``1024x768``; raises ValueError for any other text."""
    if re.fullmatch(SIZE_PATTERN, size) is None:
        raise ValueError(f"{size!r} is not a size: write width and height in pixels, such as 1024x768")
    width, _, height = size.partition("x")
    return int(width), int(height)


def money(text: str) -> Decimal:
    """An amount of money per hour, in the currency in which the operator's settings give the prices of classes."""
    return Decimal(text)


def quantity(text: str | int | float) -> Decimal:
    """The value of a Kubernetes quantity such as ``1``, ``500m``, ``2Gi`` or ``1e3``; 0 if it cannot be read."""
    text = str(text)
    number = text.rstrip("numkMGTPEi") if not text[-1:].isdigit() else text
    try:
        return Decimal(number) * _FACTORS.get(text[len(number) :], Decimal(1))
    except InvalidOperation:
        return Decimal(0)

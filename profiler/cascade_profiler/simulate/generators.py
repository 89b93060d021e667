"""Random arrivals with a rate that changes over time: Poisson, diurnal, bursts, flash crowd, on-off.

A specification is ``name:parameter=value,…``; parameters that are left out have the defaults of the functions below.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from ..frontier.inputs import BadInput

Rate = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Arrivals per second at each time."""
_MOST: Final = 20_000_000
LONGEST_S: Final = 10_000_000.0
"""Longest trace, about four months; a longer one is probably a mistake."""


def poisson(*, rate: float = 20.0) -> tuple[Rate, float]:
    """A constant rate."""
    return lambda times: np.full_like(times, rate), rate


def diurnal(*, low: float = 2.0, high: float = 40.0, period: float = 350.0) -> tuple[Rate, float]:
    """A slow wave from ``low`` to ``high`` and back within ``period`` seconds."""
    return lambda times: low + (high - low) * (1 - np.cos(2 * math.pi * times / period)) / 2, max(low, high)


def bursts(*, rate: float = 16.0, factor: float = 4.0, every: float = 50.0, length: float = 6.0) -> tuple[Rate, float]:
    """``factor`` times the rate for ``length`` seconds at the end of every ``every`` seconds."""
    return lambda times: np.where(times % every >= every - length, rate * factor, rate), rate * max(factor, 1.0)


def flash(*, rate: float = 16.0, factor: float = 4.0, at: float = 100.0, length: float = 6.0) -> tuple[Rate, float]:
    """``factor`` times the rate once, for ``length`` seconds."""
    return (
        lambda times: np.where((times >= at) & (times < at + length), rate * factor, rate),
        rate * max(factor, 1.0),
    )


def on_off(*, rate: float = 30.0, on: float = 10.0, off: float = 10.0) -> tuple[Rate, float]:
    """The rate for ``on`` seconds, then no arrivals for ``off`` seconds, and so on."""
    return lambda times: np.where(times % (on + off) < on, rate, 0.0), rate


GENERATORS: Final[dict[str, Callable[..., tuple[Rate, float]]]] = {
    "poisson": poisson,
    "diurnal": diurnal,
    "bursts": bursts,
    "flash": flash,
    "on-off": on_off,
}


def generate(kind: str, parameters: str, *, seed: int, source: str) -> npt.NDArray[np.float64]:
    """Arrival times in ``[0, seconds)`` (200 unless given); BadInput names the parameter that is wrong."""
    maker = GENERATORS[kind]
    known = {**{name: p.default for name, p in inspect.signature(maker).parameters.items()}, "seconds": 200.0}
    for part in filter(None, parameters.split(",")):
        name, _, text = part.partition("=")
        if name not in known:
            raise BadInput(source, f"is unknown; {kind} has {', '.join(known)}", field=name or part)
        try:
            value = float(text)
        except ValueError:
            raise BadInput(source, f"{text!r} is not a number", field=name) from None
        if not math.isfinite(value) or value < 0:
            raise BadInput(source, f"{text} must be finite and not below zero", field=name)
        known[name] = value
    if known["seconds"] > LONGEST_S:
        raise BadInput(source, f"{known['seconds']:g} is more than {LONGEST_S:.0f}", field="seconds")
    for name in ("period", "every"):
        if known.get(name) == 0:
            raise BadInput(source, "must be above zero", field=name)
    if known.get("on", 1) + known.get("off", 1) == 0:
        raise BadInput(source, "on and off cannot both be zero", field="on")
    seconds = known.pop("seconds")
    rate, peak = maker(**known)
    if peak * seconds > _MOST:
        raise BadInput(source, f"asks for more than {_MOST} arrivals", field="rate")
    rng = np.random.default_rng([seed, 0])
    candidates = np.sort(rng.uniform(0, seconds, size=rng.poisson(peak * seconds)))
    kept: npt.NDArray[np.float64] = candidates[rng.uniform(0, peak or 1.0, size=len(candidates)) < rate(candidates)]
    if not len(kept):
        raise BadInput(source, "draws no arrivals: raise the rate or seconds")
    return kept

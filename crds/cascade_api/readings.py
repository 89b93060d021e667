"""Turns replies of Redis into valid values, or says why data is left out; no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from .bad_data import TEXT_LIMIT
from .names import IN_USE_FIELD, CascadeRef
from .plan import Plan, is_credible
from .report import RouterReport

_IN_USE: Final = IN_USE_FIELD.encode()
MOST_ARRIVALS: Final = 10_000_000
"""Most requests in one second for one cascade; more are taken for a mistake."""
MOST_IN_USE: Final = 1_000_000
DEMAND_AGE_S: Final = 3600
DEMAND_AHEAD_S: Final = 60
"""Seconds by which routers' clocks may be ahead."""


T = TypeVar("T")


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The usable part of a reply, and why something was left out (empty: nothing was)."""

    value: T
    bad: str = ""


def plan(raw: bytes, ref: CascadeRef, *, now_s: float) -> Reading[Plan | None]:
    """The plan of a cascade; None if there is none."""
    if not raw:
        return Reading(None)
    try:
        found = Plan.from_json(_bounded(raw))
    except ValueError as error:
        return Reading(None, f"not a plan: {_first_lines(error)}")
    if found.cascade != str(ref):
        return Reading(None, f"the plan of {found.cascade[:200]!r}")
    if not is_credible(found.generation, now_s=now_s):
        return Reading(None, f"the plan's generation {found.generation} is more than a day ahead of the clock")
    return Reading(found)


def text(raw: bytes) -> Reading[str | None]:
    """A text; None if there is none."""
    try:
        return Reading(_bounded(raw).decode() or None)
    except ValueError as error:
        return Reading(None, f"not a text: {_first_lines(error)}")


def report(raw: bytes) -> Reading[RouterReport | None]:
    """A router's report; None if there is none."""
    if not raw:
        return Reading(None)
    try:
        return Reading(RouterReport.model_validate_json(_bounded(raw)))
    except ValueError as error:
        return Reading(None, f"not a report: {_first_lines(error)}")


def names(members: Sequence[bytes]) -> Reading[list[str]]:
    """The ids of routers."""
    found, bad = [], []
    for member in members:
        try:
            found.append(member.decode())
        except UnicodeDecodeError:
            bad.append(member)
    return Reading(found, f"not the id of a router: {repr(min(bad))[:80]}" if bad else "")


def depth(count: int) -> Reading[int]:
    """The number of entries in a queue."""
    return Reading(count)


def demand(fields: Mapping[bytes, bytes], *, now_s: float) -> Reading[dict[int, int]]:
    """Arrivals by Unix second."""
    good, bad = {}, []
    for second, count in fields.items():
        told = int(count) if _is_whole(second) and _is_whole(count) else MOST_ARRIVALS + 1
        if told > MOST_ARRIVALS or int(second) > now_s + DEMAND_AHEAD_S:
            bad.append((second, count))
        elif int(second) > now_s - DEMAND_AGE_S:
            good[int(second)] = told
    return Reading(good, _why("no arrivals in a second", bad))


def in_use(fields: Mapping[bytes, bytes]) -> Reading[dict[str, int]]:
    """Credits in use by worker: the fields of a pool's hash that begin with `IN_USE_FIELD`."""
    good, bad = {}, []
    for key, value in fields.items():
        if not key.startswith(_IN_USE):
            continue
        try:
            replica, used = key[len(_IN_USE) :].decode(), float(value)
        except ValueError:
            replica, used = "", math.nan
        if 0 <= used <= MOST_IN_USE:
            good[replica] = int(used)
        else:
            bad.append((key, value))
    return Reading(good, _why("no credits in use", bad))


def cascades(members: Iterable[bytes]) -> tuple[list[CascadeRef], list[bytes]]:
    """The cascades that an index names, and its members that are not the name of a cascade."""
    found, strangers = [], []
    for member in members:
        try:
            found.append(CascadeRef.parse(member.decode()))
        except ValueError:
            strangers.append(member)
    return found, sorted(strangers)


def _bounded(raw: bytes) -> bytes:
    if len(raw) > TEXT_LIMIT:
        raise ValueError(f"longer than {TEXT_LIMIT} bytes")
    return raw


def _first_lines(error: ValueError) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines()[:3])[:300]


def _is_whole(number: bytes) -> bool:
    return number.isdigit() and len(number) <= 15


def _why(what: str, bad: list[tuple[bytes, bytes]]) -> str:
    if not bad:
        return ""
    field, value = min(bad)
    more = f", and {len(bad) - 1} more fields" if len(bad) > 1 else ""
    return f"{what}: {repr(field)[:80]}: {repr(value)[:80]}{more}"

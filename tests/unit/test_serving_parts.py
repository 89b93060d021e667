"""Small parts of the router: health of replicas, tallies, demand, names of cascades, checks of a client's values."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from cascade_api.backoff import FIRST_S, LONGEST_S
from cascade_api.names import CascadeRef
from cascade_api.reasons import Refusal, Route
from cascade_router.cascade.health import ReplicaHealth
from cascade_router.reporting import DemandCounter
from cascade_router.requests import (
    RequestRefused,
    check_deadline,
    check_priority,
    check_prompt,
    decode_prompt,
    printable_id,
    unique_of,
)
from cascade_router.serving import statuses
from cascade_router.tally import RECENT_S, Tally


def test_a_failed_replica_is_probed_with_growing_pauses_until_it_works() -> None:
    health, now = ReplicaHealth(), 10.0
    assert health.failed("r", now=now)
    assert not health.failed("r", now=now)
    assert health.ejected == {"r"}
    assert health.due(now=now) == []
    pauses = []
    for _ in range(8):
        began = now
        while not health.due(now=now):
            now += 0.125
        pauses.append(now - began)
        assert not health.failed("r", now=now)
    assert pauses[0] == FIRST_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_S
    assert health.succeeded("r")
    assert not health.succeeded("r")
    assert health.ejected == frozenset()


def test_a_replica_that_left_the_plan_is_forgotten() -> None:
    health = ReplicaHealth()
    health.failed("old", now=0)
    health.keep({"new"})
    assert health.ejected == frozenset()


def test_the_tally_counts_for_ever_and_reports_the_last_minute() -> None:
    tally = Tally()
    for second in range(100):
        tally.answered(Route.LIGHT, latency_s=second / 100, late=second == 99, now=float(second))
    assert tally.refused(Refusal.QUEUE_FULL)
    assert not tally.refused(Refusal.INVALID)
    assert not tally.refused(Refusal.CANCELLED)
    routes, median, worst = tally.recent(now=100.0)
    assert (tally.routes[Route.LIGHT], tally.violations) == (100, 2)
    assert routes == {Route.LIGHT: RECENT_S}
    assert (median, worst) == (0.69, 0.99)
    assert Tally().recent(now=0) == (Counter(), None, None)


def test_demand_that_could_not_be_written_is_kept_up_to_a_bound() -> None:
    demand, ref = DemandCounter(), CascadeRef("a", "b")
    for second in (5, 5, 6):
        demand.add(ref, at_s=second + 0.7)
    taken = demand.take()
    assert taken == {ref: {5: 2, 6: 1}}
    demand.add(ref, at_s=6.0)
    demand.put_back(taken)
    assert demand.take() == {ref: {5: 2, 6: 2}}
    for second in range(1000):
        demand.add(ref, at_s=second)
    kept = demand.take()[ref]
    assert len(kept) <= 120
    assert max(kept) == 999


@pytest.mark.parametrize(
    ("given", "band"), [("high", 0), ("normal", 1), ("low", 2), (0, 1), (1, 0), (2, 1), (3, 2), ("3", 2)]
)
def test_priorities_have_names_and_tritons_numbers(given: str | int, band: int) -> None:
    assert check_priority(given) == band


@pytest.mark.parametrize("seconds", [0.0, -0.0, -1.0, 5e-324, 0.0009, math.nan, math.inf, -math.inf, 600.1])
def test_deadlines_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(RequestRefused, match="deadline_ms") as refused:
        check_deadline(seconds, limit_s=600, field="deadline_ms")
    assert (refused.value.reason, refused.value.field) == (Refusal.INVALID, "deadline_ms")


def test_a_prompt_may_have_as_many_characters_as_the_limit_says_however_many_bytes() -> None:
    assert decode_prompt("丸".encode() * 10, limit=10) == "丸" * 10
    with pytest.raises(RequestRefused, match="11 characters"):
        decode_prompt("丸".encode() * 11, limit=10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "\u200b",
        "\u200d\u2060\ufeff",
        "\u00a0\u3000\u2028",
        "\u3164",
        "\u2800\ufe0f",
        "\x00\x1b",
        "\U000e0041",
    ],
)
def test_a_prompt_that_nobody_could_see_is_empty(text: str) -> None:
    with pytest.raises(RequestRefused, match="prompt: is empty"):
        check_prompt(text, limit=100)


@pytest.mark.parametrize(
    "text", ["👩\u200d👩\u200d👧", "❤\ufe0f", "\u200bx", "می\u200cخواهم", "。", "\U0010fffd", "🏴\U000e0067\U000e007f"]
)
def test_a_prompt_with_something_to_see_stays_as_it_is(text: str) -> None:
    assert check_prompt(text, limit=100) == text


def test_an_empty_id_gets_one_and_each_is_another() -> None:
    assert printable_id("") != printable_id("")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("client:7/a", "client:7/a"),
        ("my id, the 7th", "my id, the 7th"),
        ("a\\b", "a\\b"),
        ("a\r\nset-cookie: x", "a\\r\\nset-cookie: x"),
        ("\x1b[31m\x00\x7f", "\\x1b[31m\\x00\\x7f"),
        ("bild-ß-丸", "bild-\\xdf-\\u4e38"),
        ("x" * 500, "x" * 128),
        ("\n" * 500, "\\n" * 64),
    ],
)
def test_any_id_is_taken_and_is_fit_for_headers_and_logs(sent: str, shown: str) -> None:
    assert printable_id(sent) == shown


def test_a_key_of_another_tenant_is_another_key() -> None:
    assert unique_of("k", tenant="a") == unique_of("k", tenant="a")
    assert len({unique_of("k", tenant="a"), unique_of("k", tenant="b"), unique_of("k2", tenant="a")}) == 3


def test_every_refusal_has_a_status_in_every_protocol() -> None:
    assert set(statuses.GRPC) == set(statuses.HTTP) == set(Refusal)


def test_a_retry_hint_is_never_infinite() -> None:
    assert RequestRefused(Refusal.QUEUE_FULL, "full", retry_after_s=math.inf).retry_after_s is None

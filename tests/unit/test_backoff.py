"""Pauses between tries double, up to a longest one, however often something fails."""

from __future__ import annotations

from cascade_api.backoff import LONGEST_S, pause_s


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause_s(failures) for failures in range(7)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert pause_s(100_000) == LONGEST_S

"""Cascades are decided together only if the sum of their ceilings is more than there is."""

from __future__ import annotations

import pytest

from cascade_operator.planning.allocation.contention import groups


@pytest.mark.parametrize(
    ("ceilings", "accelerators", "expected"),
    [
        ([], {"gpu": 8}, []),
        ([{"gpu": 4}, {"gpu": 4}], {"gpu": 8}, [[0], [1]]),
        ([{"gpu": 6}, {"gpu": 6}], {"gpu": 8}, [[0, 1]]),
        ([{"gpu": 6}, {"cpu": 2}, {"gpu": 6}], {"gpu": 8, "cpu": 2}, [[0, 2], [1]]),
        ([{"a": 2, "b": 2}, {"a": 2}, {"b": 2}, {"c": 9}], {"a": 3, "b": 3, "c": 9}, [[0, 1, 2], [3]]),
        ([{"a": 2}, {"a": 2, "b": 0}, {"b": 5}], {"a": 3, "b": 3}, [[0, 1], [2]]),
        ([{"gone": 1}, {"gone": 1}], {}, [[0, 1]]),
    ],
)
def test_who_competes(ceilings: list[dict[str, int]], accelerators: dict[str, int], expected: list[list[int]]) -> None:
    assert groups(ceilings, accelerators) == expected

"""Which cascades compete for accelerators.

Cascades compete for a class if their ceilings in it add up to more accelerators than there are. Competing cascades form
a group (also through a third one), and one program allocates for the whole group. Other cascades are allocated
separately, each only when its pools are due to be decided. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def groups(ceilings: Sequence[Mapping[str, int]], accelerators: Mapping[str, int]) -> list[list[int]]:
    """The cascades, by index, in groups whose allocations do not depend on each other.

    Args:
        ceilings: for each cascade, the most accelerators by class that it may use.
        accelerators: accelerators that exist, by class. A class with enough for all ceilings together joins no group.
    """
    asked: Counter[str] = Counter()
    for own in ceilings:
        asked.update(own)
    group_of = list(range(len(ceilings)))
    for name in sorted(name for name, count in asked.items() if count > accelerators.get(name, 0)):
        joined = {group_of[index] for index, own in enumerate(ceilings) if own.get(name, 0)}
        group_of = [min(joined) if group in joined else group for group in group_of]
    return [[i for i, group in enumerate(group_of) if group == first] for first in sorted(set(group_of))]

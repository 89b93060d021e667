"""Which cascades compete for accelerators: those that do not are allocated apart, and only when they are due. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def groups(ceilings: Sequence[Mapping[str, int]], accelerators: Mapping[str, int]) -> list[list[int]]:
    """Cascades, by index, in groups whose answers do not depend on each other.

    Args:
        ceilings: accelerators by class that each cascade may use at most.
        accelerators: what there is; a class that is enough for all ceilings together couples nobody.
    """
    asked: Counter[str] = Counter()
    for own in ceilings:
        asked.update(own)
    group_of = list(range(len(ceilings)))
    for name in sorted(name for name, count in asked.items() if count > accelerators.get(name, 0)):
        joined = {group_of[index] for index, own in enumerate(ceilings) if own.get(name, 0)}
        group_of = [min(joined) if group in joined else group for group in group_of]
    return [[i for i, group in enumerate(group_of) if group == first] for first in sorted(set(group_of))]

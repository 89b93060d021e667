"""Realised quality: the quality of the images that were served, not what a plan promised.

Requests are grouped by window of arrival (5 s) and by the planned row that they were drawn for. Windows are joined
until they hold at least 100 requests. In each such block,

    r̂ = images that the heavy variant made directly / images of the row
    d̂ = images that it made again / (images of the row - direct ones)

where degraded images count as accepted. The quality of the row's images is that of its chain's measured grid, by
bilinear interpolation at (r̂, d̂). If a variant outside of the request's chain made the image, its quality is that of
this variant alone. A lost request has no quality; it is a violation.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ..frontier.profiles import Charges
from .outcomes import Floats, Integers, Outcomes, Way

BLOCK_REQUESTS: Final = 100


def realised_quality(outcomes: Outcomes, charges: Charges, *, block_requests: int = BLOCK_REQUESTS) -> Floats:
    """The objective metric of each request's image; NaN for lost requests."""
    values = np.full(len(outcomes.way), np.nan)
    served = ~outcomes.lost
    for code, name in enumerate(outcomes.variants):
        # The quality of images within the chain is replaced below.
        alone = [index for index, row in enumerate(outcomes.rows) if name not in row.chain]
        chosen = served & (outcomes.variant == code) & np.isin(outcomes.row, alone)
        if chosen.any():
            values[chosen] = charges.alone(name)
    blocks = blocks_of(outcomes.window, least=block_requests)
    groups = blocks * len(outcomes.rows) + outcomes.row
    in_chain = np.flatnonzero(served & np.isnan(values))
    for members in _grouped(groups[in_chain], in_chain):
        row = outcomes.rows[outcomes.row[members[0]]]
        ways = np.bincount(outcomes.way[members], minlength=len(Way))
        direct = ways[Way.DIRECT] / len(members)
        rest = len(members) - ways[Way.DIRECT]
        escalation = ways[Way.ESCALATED] / rest if rest else 0.0
        values[members] = charges.chain(row.chain, direct=direct, escalation=escalation)
    return values


def blocks_of(windows: Integers, *, least: int) -> Integers:
    """The number of each request's block: successive windows, joined until they hold ``least`` requests.

    Windows that are left at the end join the last block.
    """
    numbers, counts = np.unique(windows, return_counts=True)
    block, held = 0, 0
    by_window = np.zeros(len(numbers), dtype=np.int64)
    for index, count in enumerate(counts):
        by_window[index] = block
        held += count
        if held >= least:
            block, held = block + 1, 0
    if held and block:
        by_window[by_window == block] = block - 1
    return by_window[np.searchsorted(numbers, windows)]


def _grouped(keys: Integers, members: Integers) -> list[Integers]:
    if not len(keys):
        return []
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(members[order], cuts)

"""The fluid limit, which no policy can exceed: every accelerator is always busy, rows mix freely, and nothing queues.

In each window the arrivals get the whole time of the accelerators, at batch 1 and without the discriminator's time:

    accelerator-seconds per image = workers · window / arrivals

The limit is the quality at this point of the hull over the rows of all chains of the profile. The least work for a
quality floor is read off the same hull the other way round.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cascade_api.profile import ProfileSpec

from ..frontier.hull import hull, points
from .outcomes import WINDOW_S
from .traces import Trace


def fluid_limit(profile: ProfileSpec, trace: Trace, *, accelerator_class: str, workers: int) -> tuple[float, float]:
    """Best objective metric on one class, as means over windows and over requests."""
    seconds, metrics = _corners(profile, accelerator_class)
    counts = np.bincount(np.floor(trace.times_s / WINDOW_S).astype(np.int64))
    counts = counts[counts > 0]
    best = np.interp(workers * WINDOW_S / counts, seconds, metrics)
    return float(best.mean()), float(np.average(best, weights=counts))


def least_work_s(profile: ProfileSpec, *, accelerator_class: str, no_worse_than: float) -> float:
    """The fewest accelerator-seconds per image on one class whose mean quality is no worse than a floor.

    It is that of the cheapest row for a floor that is worse, and of the best row for one that no row reaches.
    """
    seconds, metrics = _corners(profile, accelerator_class)
    sign = 1.0 if metrics[-1] >= metrics[0] else -1.0
    return float(np.interp(sign * no_worse_than, sign * metrics, seconds))


def _corners(profile: ProfileSpec, accelerator_class: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Accelerator-seconds per image and objective metric along the hull, the cheapest first."""
    corners = hull(points(profile.model_copy(update={"discriminator": []}), accelerator_class))
    return (
        np.asarray([corner.gpu_seconds for corner in corners]),
        np.asarray([corner.metric for corner in corners]),
    )

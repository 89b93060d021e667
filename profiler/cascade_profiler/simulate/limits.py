"""The fluid limit, which no policy can exceed: every accelerator is always busy, rows mix freely, and nothing queues.

In each window the arrivals get the whole time of the accelerators, at batch 1 and without the discriminator's time:

    accelerator-seconds per image = workers · window / arrivals

The limit is the quality at this point of the hull over the rows of all chains of the profile.
"""

from __future__ import annotations

import numpy as np

from cascade_api.profile import ProfileSpec

from ..frontier.hull import hull, points
from .outcomes import WINDOW_S
from .traces import Trace


def fluid_limit(profile: ProfileSpec, trace: Trace, *, accelerator_class: str, workers: int) -> tuple[float, float]:
    """Best objective metric on one class, as means over windows and over requests."""
    corners = hull(points(profile.model_copy(update={"discriminator": []}), accelerator_class))
    seconds = np.asarray([corner.gpu_seconds for corner in corners])
    metrics = np.asarray([corner.metric for corner in corners])
    counts = np.bincount(np.floor(trace.times_s / WINDOW_S).astype(np.int64))
    counts = counts[counts > 0]
    best = np.interp(workers * WINDOW_S / counts, seconds, metrics)
    return float(best.mean()), float(np.average(best, weights=counts))

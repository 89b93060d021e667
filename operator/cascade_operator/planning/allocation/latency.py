"""How long a request waits and takes, by a model of a pool: c replicas that serve batches of b, as a GI/G/c queue.

A replica takes e(b) seconds for a batch, however full it is, so it serves μ = b/e(b) requests per second, and a load
keeps the pool busy to the part ρ = load/(c·μ). The waiting time W is modelled as

    P(W > t) = p·exp(-t/τ)    with    p = ρ^(√(2(c+1)) - 1)    and    τ = (ca² + cs²)/2 · e(b) / (c·(1 - ρ))

where ca² = 1/b is the squared coefficient of variation of batches of b Poisson arrivals, and cs² that of the service
time. The mean p·τ is the Allen-Cunneen approximation (A. O. Allen, "Probability, Statistics, and Queueing Theory", 2nd
ed., 1990, ch. 5). The probability of waiting, p, is Sakasegawa's closed form (H. Sakasegawa, "An approximation formula
L_q = α·ρ^β/(1-ρ)", Ann. Inst. Statist. Math. 29, 1977). The exponential tail is the heavy-traffic limit (J. F. C.
Kingman, 1962).

The same limit turns a bound on the tail into a bound that is linear in load and replicas, as a mixed-integer program
needs it: P(W > t) ≤ late holds if

    load ≤ μ·(c - δ)    with    δ = ln(1/late)·(1/b + cs²)·e(b)/(2t)

So δ (`reserve`) says how many replicas' worth of time must stay idle. For example, with one image of 2 s a batch, no
variation of service time, and waits above 10 s allowed for 1 % of the requests, δ is 0.46 replicas.

If requests leave the queue after t seconds, since their images would be late, the share that leaves is taken to be

    (1 - ρ)·P(W > t) / (1 - ρ·P(W > t))    and, for long t and ρ above 1, 1 - 1/ρ

which is exact for exponential service times (N. K. Boots, H. Tijms, "A multiserver queueing system with impatient
customers", Management Science 45, 1999). P(W > t) is continued beyond ρ = 1 by its formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_P95 = 1.6449
"""95 % quantile of the standard normal distribution."""
_NEARLY_FULL = 1e-6
_ENDLESS = 50.0
"""Exponent beyond which only the overload decides how many requests leave a queue."""


@dataclass(frozen=True)
class BatchService:
    """One batch on one replica: its size, and the median and the 95 % quantile of its seconds."""

    batch: int
    p50_s: float
    p95_s: float

    @property
    def rate(self) -> float:
        """μ = b / e(b), requests per second of one busy replica."""
        return self.batch / self.p50_s

    @property
    def variability(self) -> float:
        """(ca² + cs²)/2, from batch arrivals and batch service times."""
        spread = (self.p95_s - self.p50_s) / _P95 / self.p50_s
        return (1 / self.batch + spread * spread) / 2


@dataclass(frozen=True)
class WaitingTime:
    """A waiting time with P(W > t) = probability·exp(-t/tail_s); ``tail_s`` is infinite if the queue only grows."""

    probability: float
    tail_s: float

    def beyond(self, seconds: float) -> float:
        """P(W > seconds)."""
        if seconds < 0:
            return 1.0
        if math.isinf(self.tail_s):
            return self.probability
        return self.probability * math.exp(-seconds / self.tail_s) if self.tail_s > 0 else 0.0

    @property
    def mean_s(self) -> float:
        return self.probability * self.tail_s if self.probability else 0.0


NO_WAIT = WaitingTime(0.0, 0.0)


def waiting(*, load: float, service: BatchService, replicas: int) -> WaitingTime:
    """The waiting time in a pool that ``load`` requests per second reach."""
    if load <= 0:
        return NO_WAIT
    if replicas <= 0:
        return WaitingTime(1.0, math.inf)
    busy = load / (service.rate * replicas)
    if busy >= 1:
        return WaitingTime(1.0, math.inf)
    probability = busy ** (math.sqrt(2 * (replicas + 1)) - 1)
    return WaitingTime(probability, service.variability * service.p50_s / (replicas * (1 - busy)))


def reserve(*, service: BatchService, wait_s: float, late: float) -> float:
    """δ, the replicas' worth of idle time that keeps P(wait > wait_s) ≤ ``late``; infinite if nothing can."""
    if wait_s <= 0:
        return math.inf
    return math.log(1 / late) * service.variability * service.p50_s / wait_s


@dataclass(frozen=True)
class Queue:
    """A queue that ``load`` requests per second reach, before so many replicas of a service."""

    load: float
    service: BatchService
    replicas: int

    @property
    def wait(self) -> WaitingTime:
        """How long requests wait if all stay until they are served."""
        return waiting(load=self.load, service=self.service, replicas=self.replicas)

    def left_after(self, seconds: float) -> float:
        """The share of the requests that would wait longer than ``seconds``, and leave the queue instead."""
        if self.load <= 0:
            return 0.0
        if seconds <= 0 or self.replicas <= 0:
            return 1.0
        busy = self.load / (self.service.rate * self.replicas)
        if abs(busy - 1) < _NEARLY_FULL:
            busy = 1 + _NEARLY_FULL
        exponent = seconds * self.replicas * (busy - 1) / (self.service.variability * self.service.p50_s)
        if exponent > _ENDLESS:
            return 1 - 1 / busy
        beyond = math.pow(busy, math.sqrt(2 * (self.replicas + 1)) - 1) * math.exp(exponent)
        return (1 - busy) * beyond / (1 - busy * beyond)


@dataclass(frozen=True)
class Path:
    """One way through the cascade: its share of the requests, its seconds of execution, and its waits (one or two).

    ``heavy`` is the variant at its end, and ``queue`` what waits there; None for a path that ends with a light image.
    """

    share: float
    execution_s: float
    waits: tuple[WaitingTime, ...]
    heavy: str | None = None
    queue: Queue | None = None

    def beyond(self, seconds: float) -> float:
        """P(latency > seconds)."""
        slack = seconds - self.execution_s
        if slack < 0:
            return 1.0
        if len(self.waits) == 1:
            return self.waits[0].beyond(slack)
        first, second = self.waits
        return _sum_beyond(first, second, slack)


def _sum_beyond(first: WaitingTime, second: WaitingTime, slack: float) -> float:
    """P(A + B > slack) for two independent waits, each of which is zero or exponentially distributed."""
    a, b = first.tail_s, second.tail_s
    alone = first.probability * (1 - second.probability) * WaitingTime(1.0, a).beyond(slack)
    alone += second.probability * (1 - first.probability) * WaitingTime(1.0, b).beyond(slack)
    both = first.probability * second.probability
    if both == 0 or math.isinf(a) or math.isinf(b):
        return alone + both
    if abs(a - b) < 1e-9 * max(a, b):
        tail = (1 + slack / a) * math.exp(-slack / a)
    else:
        tail = (a * math.exp(-slack / a) - b * math.exp(-slack / b)) / (a - b)
    return alone + both * tail


def late_share(paths: Sequence[Path], *, seconds: float) -> float:
    """The share of all requests that take longer than ``seconds``; paths count by their shares."""
    return sum(path.share * path.beyond(seconds) for path in paths)


def quantile(paths: Sequence[Path], *, share: float, ceiling_s: float) -> float:
    """Seconds within which ``share`` of all requests are answered, or ``ceiling_s`` if it would be more."""
    low, high = 0.0, ceiling_s
    if late_share(paths, seconds=high) > 1 - share:
        return ceiling_s
    while high - low > 1e-4 * ceiling_s:
        middle = (low + high) / 2
        if late_share(paths, seconds=middle) > 1 - share:
            low = middle
        else:
            high = middle
    return high

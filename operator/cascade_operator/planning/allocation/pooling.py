"""Several cascades on one pool of workers, of any size: the work that each may do, and what each worker hosts. Pure.

A program over sets of weights (`sets`) knows every set that fits on a worker, which are far too many for twenty
cascades. Here it goes in three steps:

1. Memory is left aside. What a cascade is worth grows with its work along its hull, at a falling rate. So the pieces of
   all hulls are bought in the order of what they are worth for a worker's time, until there is none left (`spend`). No
   allocation is worth more, so this is also the bound that the answer is held against.
2. The work of the weights is packed into workers (`pack`). Work may be split between workers, so each worker takes the
   weights with least work while there is memory, and its last weights fill what is left of its time.
3. Where that takes too many workers, memory binds. Then each cascade gets the weights of one chain after the other,
   first those that gain most for the memory and the time that they take, as long as all of them can be packed. At last
   workers with memory left get more weights where the linear program over what is hosted gains by it.

Where all weights fit on a worker, every worker hosts all of them, and only their number is of interest. Elsewhere
memory that is left is used against crowds: workers keep what they host as long as it fits, and the quickest weights of
each cascade are hosted on some workers more (`CROWD_PART`), so that requests need not wait for a load.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Final

from .frontier import Row
from .hull import HostSet, upper_hull
from .mixtures import NOTHING
from .sets import User, Weighed, best_on_sets, needed_mib, work_of
from .stages import SHED_PRICE

TOO_LITTLE: Final = 1e-6
"""Work, in workers' worth, that no worker is given for."""
TRIES: Final = 5
"""Attempts to pack, each with less work than the last by the workers that were too many."""
FILLS: Final = 10_000
"""Linear programs that try to host more weights where memory is left, times the cascades and sets that each has."""
NO_PRICES: Final[Mapping[str, float]] = {}
NOTHING_RUNS: Final[Mapping[HostSet, int]] = {}
NO_MINIMA: Final[Mapping[str, int]] = {}
CROWD_PART: Final = 0.25
"""Part of the workers that host the quickest weights of each cascade, where memory is left."""
GOOD_GAP: Final = 0.002
"""With a gap to the bound of no more than this part of it, no better weights are looked for."""


@dataclass(frozen=True)
class Point:
    """A way to serve a prompt: its row (None: it is shed), its work in workers' worth for all prompts, its worth."""

    row: Row | None
    work: float
    worth: float


@dataclass(frozen=True)
class Pooled:
    """Workers by what they host, what all cascades are worth on them, and the most that any allocation is worth."""

    workers: Mapping[HostSet, int]
    worth: float
    bound: float


def points_of(user: User, weights: Collection[str]) -> list[Point]:
    """What more work buys a cascade with some ``weights`` (digests), cheapest first and at a falling rate."""
    demand = max(user.demand, NOTHING)
    points = [Point(None, 0.0, -user.weight * SHED_PRICE)]
    for row, gain in user.rows.items():
        work = work_of(user.hull, row)
        if all(user.hull.weights[variant] in weights for variant in work):
            points.append(Point(row, demand * sum(work.values()) / user.utilisation, user.weight * gain))
    return upper_hull(points, cost=lambda p: p.work, worth=lambda p: p.worth)


def enough_of(user: User, points: Sequence[Point]) -> float:
    """The work beyond which more buys a cascade nothing, in workers' worth: where its floor is held."""
    floor = user.weight * user.hull.floor
    for low, high in pairwise(points):
        if high.worth >= floor:
            part = 1.0 if low.row is None else max((floor - low.worth) / (high.worth - low.worth), 0.0)
            return low.work + part * (high.work - low.work)
    return math.inf


@dataclass(frozen=True)
class Curve:
    """What work buys a cascade (`points_of`), and the most that it may have."""

    points: Sequence[Point]
    most: float

    @cached_property
    def pieces(self) -> list[tuple[float, float]]:
        """Worth for a worker's time, and work, from one point to the next."""
        return [
            ((high.worth - low.worth) / (high.work - low.work), high.work - low.work)
            for low, high in pairwise(self.points)
        ]


def spend(curves: Sequence[Curve], workers: float) -> list[float]:
    """The work of each cascade, in workers' worth, that makes all of them worth most together."""
    pieces = [(-slope, index, work) for index, curve in enumerate(curves) for slope, work in curve.pieces]
    pieces.sort()
    spent, left = [0.0] * len(curves), float(workers)
    for _, index, work in pieces:
        if left <= 0:
            break
        taken = max(min(work, left, curves[index].most - spent[index]), 0.0)
        spent[index] += taken
        left -= taken
    return spent


def bought(points: Sequence[Point], work: float) -> list[tuple[float, Point]]:
    """The points that so much work buys, at most two, each with the share of the prompts."""
    low = max((p for p in points if p.work <= work + NOTHING), key=lambda p: p.work)
    high = next((p for p in points if p.work > low.work), None)
    if high is None:
        return [(1.0, low)]
    part = min(max((work - low.work) / (high.work - low.work), 0.0), 1.0)
    return [(share, point) for share, point in ((1.0 - part, low), (part, high)) if share > 0]


def worth_of(user: User, parts: Sequence[tuple[float, Point]]) -> float:
    """What a cascade's points are worth, each with its share of the prompts; quality above its floor adds nothing."""
    shed = sum(share for share, point in parts if point.row is None)
    gained = sum(share * point.worth for share, point in parts if point.row is not None)
    most = user.weight * user.hull.floor * (1 - shed) if shed < 1 else 0.0
    return min(gained, most) - user.weight * SHED_PRICE * shed


def loads_of(users: Sequence[User], ways: Sequence[Sequence[tuple[float, Point]]]) -> dict[str, float]:
    """The work of all cascades by the weights that do it, in workers' worth."""
    loads: defaultdict[str, float] = defaultdict(float)
    for user, parts in zip(users, ways, strict=True):
        for share, point in parts:
            for variant, seconds in work_of(user.hull, point.row).items() if point.row is not None else ():
                loads[user.hull.weights[variant]] += share * user.demand * seconds / user.utilisation
    return {digest: load for digest, load in loads.items() if load > TOO_LITTLE}


def pack(
    loads: Mapping[str, float],
    weights: Mapping[str, Weighed],
    *,
    memory_mib: int,
    accelerator_class: str,
    running: Mapping[HostSet, int] = NOTHING_RUNS,
) -> Counter[HostSet]:
    """Workers that have the time for these loads (by digest, in workers' worth) and the memory for their weights.

    Every one of the ``weights`` fits on a worker alone. A memory of 0 is not known, so that everything fits. Workers
    that run (``running``, by what they host) first take the loads of what they host.
    """
    left = {digest: load for digest, load in loads.items() if load > TOO_LITTLE}
    workers: Counter[HostSet] = Counter()

    def added_mib(digest: str, parts: Collection[str]) -> int:
        """Memory that weights need on a worker which has some components."""
        own = weights[digest]
        return own.memory_mib + sum(size for name, size in own.components.items() if name not in parts)

    def take(digest: str, time: float) -> float:
        """The time that is left of a worker that takes as much of a load as it can."""
        taken = min(left[digest], time)
        left[digest] -= taken
        if left[digest] <= TOO_LITTLE:
            del left[digest]
        return time - taken

    def fill(hosts: list[str], time: float) -> None:
        """Give a worker, which hosts some weights and has some time, as many loads as it has time and memory for."""
        parts = {name for digest in hosts for name in weights[digest].components}
        room_mib = (memory_mib or math.inf) - needed_mib([weights[digest] for digest in hosts])
        while left and time > TOO_LITTLE:
            last = max(left, key=lambda digest: (left[digest], digest))
            needs = {digest: need for digest in left if (need := added_mib(digest, parts)) <= room_mib}
            # Of the weights that leave room for the largest load, those that need least memory beside the others.
            small = [
                (need, left[digest], digest)
                for digest, need in needs.items()
                if digest != last and need + added_mib(last, {*parts, *weights[digest].components}) <= room_mib
            ]
            if small:
                chosen = min(small)[2]
            elif needs:
                chosen = (
                    last if last in needs else min((need, left[digest], digest) for digest, need in needs.items())[2]
                )
            else:
                break
            hosts.append(chosen)
            room_mib -= needs[chosen]
            parts.update(weights[chosen].components)
            time = take(chosen, time)
        workers[HostSet.of(hosts, accelerator_class)] += 1

    for before, count in sorted(running.items()):
        for _ in range(count):
            hosts = sorted((digest for digest in before.weights if digest in left), key=lambda digest: left[digest])
            if hosts:
                time = 1.0
                for digest in hosts:
                    time = take(digest, time)
                fill(hosts, time)
    for digest, load in list(left.items()):
        alone = int(load) - 1
        if alone > 0:
            workers[HostSet.of([digest], accelerator_class)] += alone
            left[digest] -= alone
    while left:
        fill([], 1.0)
    return workers


def loads_needed(running: Mapping[HostSet, int], wanted: Mapping[HostSet, int]) -> list[str]:
    """The weights, by digest, that workers must load to host what is wanted; each comes from the nearest that runs."""
    left, missing = Counter(running), Counter(wanted)
    pairs = sorted(
        (len(set(after.weights) - set(before.weights)), after, before) for after in wanted for before in running
    )
    loads: list[str] = []
    for _, after, before in pairs:
        count = min(left[before], missing[after])
        left[before] -= count
        missing[after] -= count
        loads += count * sorted(set(after.weights) - set(before.weights))
    return loads + [digest for after, count in missing.items() for digest in count * after.weights]


def allocate_on_pool(
    users: Sequence[User],
    weights: Sequence[Weighed],
    *,
    memory_mib: int,
    accelerator_class: str,
    most: int,
    least: int = 0,
    min_hosts: Mapping[str, int] = NO_MINIMA,
    running: Mapping[HostSet, int] = NOTHING_RUNS,
    load_price: Mapping[str, float] = NO_PRICES,
) -> Pooled:
    """What from ``least`` to ``most`` workers of a pool host for its cascades; ``weights`` are those of all of them.

    ``min_hosts`` says how many workers always host weights, by digest. ``running`` counts workers by what they host
    now, and ``load_price`` is what loading weights must gain, by digest. If other hosts gain less than their loads
    must, workers stay as they are.
    """
    known = {each.digest: each for each in weights}
    here = +Counter({own: count for each, count in running.items() if (own := _of(known, each)).weights})
    found = _best_on_pool(
        users, weights, memory_mib=memory_mib, accelerator_class=accelerator_class, most=most, running=here
    )
    least = min(max([least, *min_hosts.values()]), most)
    if not memory_mib or needed_mib(weights) <= memory_mib:
        count = max(sum(found.workers.values()), least)
        everything = HostSet.of(known, accelerator_class)
        return Pooled({everything: count} if count else {}, found.worth, found.bound)
    price = sum(load_price.get(digest, 0.0) for digest in loads_needed(here, found.workers))
    if price and here.total() <= most and (kept := _worth(users, here)) >= found.worth - price:
        found = Pooled(here, kept, found.bound)
    hosts = _enough(users, found.workers, least)
    hosts = _with_minima(hosts, min_hosts, known, memory_mib, accelerator_class, most)
    quickest = _quickest(users)
    hosts = _keeping(hosts, here, known, quickest, memory_mib)
    return Pooled(_ready_for_crowds(hosts, quickest, known, memory_mib), found.worth, found.bound)


def _of(known: Mapping[str, Weighed], hosts: HostSet) -> HostSet:
    """Those of the weights of a worker that cascades of the pool use."""
    return HostSet.of(known.keys() & set(hosts.weights), hosts.accelerator_class)


def _enough(users: Sequence[User], workers: Mapping[HostSet, int], least: int) -> Counter[HostSet]:
    """At least so many workers: the busiest are doubled."""
    found = Counter(workers)
    if found and found.total() < least:
        busy: Counter[HostSet] = Counter()
        for each in best_on_sets(users, workers):
            busy.update(each.time)
        while found.total() < least:
            found[max(sorted(found), key=lambda hosts: busy[hosts] / found[hosts])] += 1
    return found


def _with_minima(
    workers: Counter[HostSet],
    min_hosts: Mapping[str, int],
    known: Mapping[str, Weighed],
    memory_mib: int,
    accelerator_class: str,
    most: int,
) -> Counter[HostSet]:
    """The workers with weights that must be hosted more often: where there is memory, else on workers more."""
    found = Counter(workers)
    for digest, wanted in sorted(min_hosts.items()):
        while sum(count for hosts, count in found.items() if digest in hosts.weights) < wanted:
            wider = [
                (hosts, filled)
                for hosts in sorted(found)
                if digest not in hosts.weights
                and needed_mib([known[d] for d in (*hosts.weights, digest)]) <= memory_mib
                and (filled := HostSet.of([*hosts.weights, digest], accelerator_class))
            ]
            if wider:
                before, after = wider[0]
                found[before] -= 1
                found[after] += 1
                found = +found
            elif found.total() < most:
                found[HostSet.of([digest], accelerator_class)] += 1
            else:
                break
    return found


def _keeping(
    workers: Mapping[HostSet, int],
    running: Mapping[HostSet, int],
    known: Mapping[str, Weighed],
    quickest: Collection[str],
    memory_mib: int,
) -> Counter[HostSet]:
    """The workers with what they host now beside what they should, as long as that fits, the quickest weights first.

    Each comes from the running one that hosts most of what it should.
    """
    left, missing, found = Counter(running), Counter(workers), Counter[HostSet]()
    pairs = sorted(
        (len(set(after.weights) - set(before.weights)), after, before) for after in workers for before in running
    )
    for _, after, before in pairs:
        count = min(left[before], missing[after])
        if count:
            left[before] -= count
            missing[after] -= count
            hosted = list(after.weights)
            for digest in sorted(
                before.weights, key=lambda each: (each not in quickest, -known[each].memory_mib, each)
            ):
                if digest not in hosted and needed_mib([known[d] for d in (*hosted, digest)]) <= memory_mib:
                    hosted.append(digest)
            found[HostSet.of(hosted, after.accelerator_class)] += count
    return found + missing


def _best_on_pool(
    users: Sequence[User],
    weights: Sequence[Weighed],
    *,
    memory_mib: int,
    accelerator_class: str,
    most: int,
    running: Mapping[HostSet, int],
) -> Pooled:
    known = {each.digest: each for each in weights}
    fluid = _Choice(users, most)

    def packed(chosen: Sequence[frozenset[str]], above: float = -math.inf) -> tuple[float, Counter[HostSet]]:
        """What the cascades are worth with these weights, on no more workers than there are, and the workers.

        What is worth no more than ``above`` is not packed.
        """
        spent = float(most)
        for _ in range(TRIES):
            ways, worth, _ = fluid.of(chosen, spent)
            if worth <= above:
                break
            workers = pack(
                loads_of(users, ways),
                known,
                memory_mib=memory_mib,
                accelerator_class=accelerator_class,
                running=running,
            )
            over = workers.total() - most
            if over <= 0:
                return worth, workers
            spent = max(spent - over, 0.0)
        return -math.inf, Counter()

    everything = [frozenset(user.hull.weights.values()) for user in users]
    bound = fluid.of(everything, most)[1]
    worth, workers = packed(everything)
    if worth >= bound - GOOD_GAP * abs(bound):
        return Pooled(workers, worth, bound)

    chosen = [frozenset[str]()] * len(users)
    reached, hosted = fluid.of(chosen, most)[1], Counter[HostSet]()
    wished = [
        (index, frozenset(user.hull.weights[variant] for variant in variants))
        for index, user in enumerate(users)
        for variants in sorted({tuple(sorted(work_of(user.hull, row))) for row in user.rows})
    ]
    # What is gained by more weights hardly rises while others are chosen, so only the first of the queue is looked at.
    present = fluid.of(chosen, most)[1:]
    queue = [(-_density(fluid, chosen, present, wish, known, memory_mib), number) for number, wish in enumerate(wished)]
    heapify(queue)
    while queue:
        before, number = heappop(queue)
        now = -_density(fluid, chosen, present, wished[number], known, memory_mib)
        if now >= -NOTHING:
            continue
        if queue and now > before and now > queue[0][0]:
            heappush(queue, (now, number))
            continue
        more = _with(chosen, wished[number])
        better, found = packed(more, above=reached)
        if better > reached:
            chosen, reached, hosted = more, better, found
            present = fluid.of(chosen, most)[1:]
    hosted = hosted if reached > worth else workers
    workers, worth = _filled(users, hosted, [digests for _, digests in wished], known, memory_mib)
    return Pooled(workers, worth, bound)


def _filled(
    users: Sequence[User],
    hosted: Mapping[HostSet, int],
    wished: Sequence[frozenset[str]],
    known: Mapping[str, Weighed],
    memory_mib: int,
) -> tuple[Counter[HostSet], float]:
    """The workers with more weights where memory is left and the program gains by it, and what they are worth.

    Weights that need least memory beside what a worker hosts are tried first.
    """
    workers = Counter(hosted)
    worth = _worth(users, workers)
    room = []
    for hosts in workers:
        there_mib = needed_mib([known[digest] for digest in hosts.weights])
        for more in wished:
            filled = HostSet.of([*hosts.weights, *more], hosts.accelerator_class)
            needed = needed_mib([known[digest] for digest in filled.weights])
            if filled != hosts and needed <= memory_mib:
                room.append((needed - there_mib, hosts, filled))
    for _, hosts, filled in sorted(room)[: FILLS // (len(users) + len(workers))]:
        if workers[hosts]:
            tried = Counter(workers)
            tried[hosts] -= 1
            tried[filled] += 1
            better = _worth(users, +tried)
            if better > worth + TOO_LITTLE:
                workers, worth = +tried, better
    return workers, worth


def _worth(users: Sequence[User], workers: Mapping[HostSet, int]) -> float:
    return sum(
        user.weight * ((1 - found.shed) * found.gain - SHED_PRICE * found.shed)
        for user, found in zip(users, best_on_sets(users, workers), strict=True)
    )


def _quickest(users: Sequence[User]) -> list[str]:
    """The weights of the variant of each cascade whose images take least time."""
    used = [[user.hull.weights[name] for name in sorted(user.hull.batches, key=user.hull.image_s)] for user in users]
    return list(dict.fromkeys(digests[0] for digests in used if digests))


def _ready_for_crowds(
    workers: Mapping[HostSet, int], quickest: Sequence[str], known: Mapping[str, Weighed], memory_mib: int
) -> Counter[HostSet]:
    """The workers with the quickest weights of each cascade on `CROWD_PART` of them, where there is memory.

    Weights that fewest workers host come first, each on the worker that has most memory left.
    """
    each = [list(hosts.weights) for hosts, count in sorted(workers.items()) for _ in range(count)]
    room = [memory_mib - needed_mib([known[digest] for digest in hosts]) for hosts in each]
    wanted = math.ceil(CROWD_PART * len(each))
    counts = {digest: sum(digest in hosts for hosts in each) for digest in quickest}
    queue = [digest for level in range(wanted) for digest in quickest if counts[digest] <= level]
    for digest in queue:
        fitting = [
            (left, index)
            for index, hosts in enumerate(each)
            if digest not in hosts
            and room[index] >= known[digest].memory_mib
            and (left := memory_mib - needed_mib([known[d] for d in (*hosts, digest)])) >= 0
        ]
        if fitting:
            left, index = max(fitting)
            room[index] = left
            each[index].append(digest)
    on = next((hosts.accelerator_class for hosts in workers), "")
    return Counter(HostSet.of(hosts, on) for hosts in each)


class _Choice:
    """What cascades buy on a number of workers, with the weights that are chosen for each."""

    def __init__(self, users: Sequence[User], workers: int) -> None:
        self._users = users
        self.workers = workers
        self._curves: dict[tuple[int, frozenset[str]], Curve] = {}

    def of(
        self, chosen: Sequence[frozenset[str]], workers: float
    ) -> tuple[list[list[tuple[float, Point]]], float, float]:
        """What each cascade buys with so many workers' worth of work, what all of it is worth, and the work."""
        curves = [self._curve_of(index, digests) for index, digests in enumerate(chosen)]
        spent = spend(curves, workers)
        found = [bought(curve.points, work) for curve, work in zip(curves, spent, strict=True)]
        worth = sum(worth_of(user, parts) for user, parts in zip(self._users, found, strict=True))
        return found, worth, sum(spent)

    def _curve_of(self, index: int, digests: frozenset[str]) -> Curve:
        key = index, digests
        if key not in self._curves:
            user = self._users[index]
            points = points_of(user, digests)
            self._curves[key] = Curve(points, min(user.most, enough_of(user, points)))
        return self._curves[key]


def _with(chosen: Sequence[frozenset[str]], wish: tuple[int, frozenset[str]]) -> list[frozenset[str]]:
    index, digests = wish
    return [each | digests if number == index else each for number, each in enumerate(chosen)]


def _density(
    fluid: _Choice,
    chosen: Sequence[frozenset[str]],
    present: tuple[float, float],
    wish: tuple[int, frozenset[str]],
    known: Mapping[str, Weighed],
    memory_mib: int,
) -> float:
    """What more weights for a cascade gain, by the part of a worker that they take: of its memory, and of its time.

    ``present`` is what all is worth and how much work it is without them.
    """
    worth, busy = present
    index, digests = wish
    if digests <= chosen[index]:
        return 0.0
    _, better, busier = fluid.of(_with(chosen, wish), fluid.workers)
    there = chosen[index]
    memory = needed_mib([known[d] for d in there | digests]) - needed_mib([known[d] for d in there])
    return (better - worth) / (memory / max(memory_mib, 1) + max(busier - busy, 0.0) + TOO_LITTLE)

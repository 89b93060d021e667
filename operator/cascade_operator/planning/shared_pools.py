"""WorkerPools at the beginning of a tick: the workers of each, and the cascades that share them."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cascade_api.names import CascadeRef
from cascade_api.quantities import money
from cascade_api.workers import Hosting, WorkerPoolSpec

from ..snapshot import HostState, PoolRef, PoolView, Snapshot, Worker
from .allocation import HostSet, Weighed, WorkerBounds, needed_mib
from .memory import Leaving
from .observed import Observed, serving

ONE = 1
"""Memory of weights, and of a worker, where a worker hosts one weights whatever their memory."""


@dataclass(frozen=True, eq=False)
class SharedPool:
    """A WorkerPool, all ``cascades`` that name it, its ``workers``, and the weights that these are ``leaving``.

    ``price_per_hour`` is that of one accelerator of its class (None: not known). ``considered`` is one of its cascades
    that only recommends: the pool is looked at as if that one were acted upon.
    """

    ref: PoolRef
    spec: WorkerPoolSpec
    cascades: tuple[Observed, ...]
    workers: tuple[Worker, ...]
    leaving: tuple[Leaving, ...]
    price_per_hour: float | None
    considered: CascadeRef | None = None

    @cached_property
    def planned(self) -> tuple[Observed, ...]:
        """The cascades for which something is decided now, sorted by name.

        Beside cascades that are acted upon, those that only recommend are not among them: they move nothing.
        """
        deciding = (s for s in self.cascades if s.decides and not s.idle)
        chosen = (s for s in deciding if s.acts or not self.acts or s.ref == self.considered)
        return tuple(sorted(chosen, key=lambda seen: str(seen.ref)))

    @property
    def asking(self) -> tuple[Observed, ...]:
        """Those of ``planned`` that ask for a decision: all, or the one that is considered."""
        return tuple(s for s in self.planned if self.considered in (None, s.ref))

    @property
    def advice(self) -> list[SharedPool]:
        """The pool as it would be for each of its cascades that only recommends, if others are acted upon."""
        advised = (s for s in self.cascades if self.acts and s.decides and not s.acts and not s.idle)
        return [replace(self, considered=seen.ref) for seen in advised]

    @property
    def acts(self) -> bool:
        """Whether workers may be moved: unless all cascades of the pool are held or not acted upon."""
        return not self.cascades or any(seen.acts for seen in self.cascades)

    @property
    def bounds(self) -> WorkerBounds:
        budget = self.spec.budget_per_hour
        return WorkerBounds(
            self.spec.workers.min, self.spec.workers.max, None if budget is None else float(money(budget))
        )

    @property
    def most(self) -> int:
        """The most workers, within the budget."""
        return self.bounds.ceiling(self.price_per_hour)

    @cached_property
    def print(self) -> str:
        """A fingerprint of the pool and of the cascades that are planned for."""
        names = " ".join(str(seen.ref) for seen in self.planned)
        return f"{zlib.crc32(f'{self.spec.model_dump_json()} {names}'.encode()):08x}"

    @cached_property
    def weights(self) -> Mapping[str, Weighed]:
        """The weights of all cascades that can be planned, by digest, with the most memory that one says they take."""
        found: dict[str, Weighed] = {}
        for seen in self.cascades:
            for each in seen.prepared.weighed if seen.prepared is not None else ():
                if self.spec.hosting is Hosting.DEDICATED:
                    found[each.digest] = Weighed(each.digest, each.variants, ONE)
                elif each.digest not in found or each.total_mib > found[each.digest].total_mib:
                    found[each.digest] = each
        return found

    @property
    def memory_mib(self) -> int:
        """The memory of a worker; 0: not known, so that everything fits."""
        if self.spec.hosting is Hosting.DEDICATED:
            return ONE
        prepared = (seen.prepared for seen in self.cascades if seen.prepared is not None)
        return max((each.memory_mib.get(self.spec.accelerator_class, 0) for each in prepared), default=0)

    @property
    def running(self) -> Counter[HostSet]:
        """Workers that serve or will, by the weights that are ready or loading there."""
        served = (serving(worker, self.leaving, loading=True) for worker in self.workers)
        return Counter(each for each in served if each.weights)

    @property
    def hosted(self) -> set[tuple[str, str]]:
        """Weights that are ready on a worker, with their class."""
        return {(digest, w.accelerator_class) for w in self.workers for digest in w.hosting(HostState.READY)}

    def fits(self, hosts: HostSet) -> bool:
        """Whether a worker may host these weights together; what is not known leaves no room."""
        if not self.memory_mib:
            return True
        known = [self.weights[digest] for digest in hosts.weights if digest in self.weights]
        return len(known) == len(hosts.weights) and needed_mib(known) <= self.memory_mib

    def in_flight(self, worker: Worker, weights: Collection[str]) -> int | None:
        """Requests for some weights that a worker has in hand, of any cascade; None if that is not known.

        Weights that no cascade of the pool has any more are in use by those that left it.
        """
        if worker.in_flight is None:
            return None
        present = {seen.ref for seen in self.cascades if seen.prepared is not None}
        count = 0
        for seen in self.cascades:
            if seen.prepared is not None:
                own = seen.prepared.variants_with.keys() & set(weights)
                count += (seen.in_flight(worker, own) or 0) if own else 0
        if not self.weights.keys() >= set(weights):
            count += sum(number for (ref, _), number in worker.in_flight.items() if ref not in present)
        return count


def shared_pools(
    observed: Sequence[Observed], snapshot: Snapshot, prices_per_hour: Mapping[str, float]
) -> list[SharedPool]:
    """All WorkerPools, also those that no cascade names."""
    naming: defaultdict[PoolRef, list[Observed]] = defaultdict(list)
    for seen in observed:
        if seen.pool is not None:
            naming[seen.pool].append(seen)
    return [_shared_pool(view, snapshot, naming, prices_per_hour) for view in snapshot.pools]


def _shared_pool(
    view: PoolView,
    snapshot: Snapshot,
    naming: Mapping[PoolRef, Sequence[Observed]],
    prices_per_hour: Mapping[str, float],
) -> SharedPool:
    ref, spec = view.ref, view.pool.spec
    cascades = tuple(naming.get(ref, ()))
    return SharedPool(
        ref,
        spec,
        cascades,
        workers=tuple(worker for worker in snapshot.workers if worker.pool == ref),
        leaving=cascades[0].leaving if cascades else (),
        price_per_hour=prices_per_hour.get(spec.accelerator_class),
    )

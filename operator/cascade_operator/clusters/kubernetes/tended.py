"""The pools in the care of the driver: to whom each belongs, and the cascades whose weights its workers host. Pure.

A pool of a cascade's own has that cascade alone. A WorkerPool has all cascades that name it, and its workers host what
any of them needs: what one cascade says is never all that an agent is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade_api.cascade import DiffusionCascade
from cascade_api.hosts import hosts_document
from cascade_api.names import CascadeRef
from cascade_api.profile import CascadeProfile, profile_for
from cascade_api.settings import AcceleratorClass
from cascade_api.workers import Workers

from ...manifests.naming import Owner
from ...manifests.pools import leave_time_s, measured_memory, shared_leave_time_s
from ...snapshot import PoolRef
from ...sources import PoolSubject, Subject


@dataclass(frozen=True)
class TendedPool:
    """One pool in the driver's care; ``workers`` is None if no spec has it any more, so that it only shrinks."""

    ref: PoolRef
    owner: Owner
    workers: Workers | None
    subjects: tuple[Subject, ...]

    @property
    def acts(self) -> bool:
        """Whether what runs may be changed: if one of its cascades is in mode auto, or a WorkerPool has none."""
        acting = (each.cascade.spec.policy.mode == "auto" and each.profile is not None for each in self.subjects)
        return any(acting) or not self.subjects

    @property
    def cascades(self) -> list[CascadeRef]:
        return [subject.cascade.ref for subject in self.subjects]

    @property
    def specs(self) -> list[tuple[DiffusionCascade, CascadeProfile | None]]:
        """Its cascades with their profiles, which decide everything that is made for it."""
        return [(subject.cascade, subject.profile) for subject in self.subjects]

    @property
    def known(self) -> set[str]:
        """The weights of all of its cascades, by digest."""
        return {variant.weights.digest for subject in self.subjects for variant in subject.cascade.spec.variants}

    def variants(self, weights: Sequence[str]) -> list[str]:
        """The variants that these weights serve, as people read them."""
        return [
            f"{subject.cascade.metadata.name}/{variant.name}" if self.owner.shared else variant.name
            for subject in self.subjects
            for variant in subject.cascade.spec.variants
            if variant.weights.digest in weights
        ]

    def document(self, weights: Sequence[str]) -> dict[str, Any] | None:
        """What an agent is told that shall host these weights; None if a profile is missing that says how."""
        told = [each for each in self.subjects if any(v.weights.digest in weights for v in each.cascade.spec.variants)]
        specs = [(each.cascade.spec, each.profile.spec) for each in told if each.profile is not None]
        return hosts_document(specs, weights) if len(specs) == len(told) else None

    def memory(self, workers: Workers, accelerator_class: AcceleratorClass) -> Mapping[str, Mapping[str, str]]:
        """Request and limit of memory as measured. A WorkerPool has none: cascades come and go, and no pod for it."""
        if self.owner.shared:
            return {}
        (subject,) = self.subjects
        if subject.profile is None:
            return {}
        spec = subject.cascade.spec
        return measured_memory(spec, profile_for(spec, subject.profile.spec), workers, accelerator_class)

    @property
    def leave_s(self) -> int:
        """Seconds that an ending server has for its requests in hand."""
        longest = max((leave_time_s(subject.cascade.spec) for subject in self.subjects), default=0)
        return shared_leave_time_s(longest) if self.owner.shared else longest


def tended(
    subjects: Iterable[Subject], pools: Iterable[PoolSubject], there: Iterable[PoolRef]
) -> dict[PoolRef, TendedPool]:
    """All pools of these cascades, all WorkerPools, and those ``there`` that a cascade no longer has in its spec."""
    naming: defaultdict[PoolRef, list[Subject]] = defaultdict(list)
    found: dict[PoolRef, TendedPool] = {}
    by_ref: dict[CascadeRef, Subject] = {}
    for subject in subjects:
        ref = subject.cascade.ref
        by_ref[ref] = subject
        for workers in subject.cascade.spec.workers:
            pool = PoolRef.of(ref, workers)
            naming[pool].append(subject)
            if workers.pool is None:
                found[pool] = TendedPool(pool, Owner.cascade(ref, subject.uid), workers, (subject,))
    for each in pools:
        meta, spec = each.pool.metadata, each.pool.spec
        ref_of_pool = PoolRef(meta.namespace, meta.name)
        workers = Workers(pool=meta.name, max=spec.workers.max).of_pool(spec)
        owner = Owner.worker_pool(ref_of_pool, each.uid)
        found[ref_of_pool] = TendedPool(ref_of_pool, owner, workers, tuple(naming[ref_of_pool]))
    for pool in there:
        former = by_ref.get(pool.owner) if pool.owner is not None else None
        if former is not None and pool not in found:
            found[pool] = TendedPool(pool, Owner.cascade(former.cascade.ref, former.uid), None, (former,))
    return found

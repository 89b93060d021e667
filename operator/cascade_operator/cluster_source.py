"""Cascades, profiles and WorkerPools of a cluster: if one becomes invalid, its last valid version stays in force.

If a spec or profile cannot be used, the subject has a complaint, and the last valid spec and profile. These are kept in
this process and in each cascade's ConfigMap. So an operator that starts while a resource is invalid can use them, too.

What a cascade's WorkerPools say is filled in anew at each change of them (`CascadeSpec.on_pools`). Where one of them is
gone, the cascade keeps the bare reference, so that nothing can be planned for it and its status says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from pydantic import ValidationError

from cascade_api.cascade import DiffusionCascade, PoolMismatch, identity_problems
from cascade_api.documents import DocumentError, read_resource
from cascade_api.names import API_VERSION, CascadeRef
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import Reason
from cascade_api.status import CascadeStatus, WorkerPoolStatus
from cascade_api.workers import WorkerPool, WorkerPoolSpec, pool_identity_problems

from .clusters.kubernetes.mirror import Mirror, MirroredDocument
from .clusters.kubernetes.objects import Key
from .manifests.documents import last_valid
from .manifests.naming import document_name
from .planning.prepared import NotPlannable, Preparations
from .sources import Complaint, PoolSubject, Refused, Subject

T = TypeVar("T", DiffusionCascade, CascadeProfile, WorkerPool)
S = TypeVar("S", CascadeStatus, WorkerPoolStatus)
Pools = Mapping[str, WorkerPoolSpec]
"""The WorkerPools of one namespace, by name."""

log = structlog.get_logger(__name__)

NOTHING_KNOWN: Final = (Reason.INVALID_SPEC, "spec: cannot be read")


@dataclass(frozen=True)
class CheckedResources:
    """The result of checking a resource and its profile: usable if ``complaint`` is None, else what could be read.

    ``cascade`` is as it was written, without what its WorkerPools say.
    """

    cascade: DiffusionCascade | None
    profile: CascadeProfile | None
    complaint: Complaint | None = None


class ResourceChecker:
    """Reads and checks resources; profiles that were read are kept, since several cascades may share one."""

    def __init__(self, preparations: Preparations) -> None:
        """``preparations`` are the planner's, so that nothing is prepared twice."""
        self._preparations = preparations
        self._profiles: dict[Key, tuple[object, CascadeProfile | Complaint]] = {}

    def check(self, cascade: MirroredDocument, profile: MirroredDocument | None, pools: Pools) -> CheckedResources:
        """Read a cascade and its profile (None: it does not exist), and check whether they can be planned."""
        try:
            spec = read_as(cascade.raw, DiffusionCascade)
        except DocumentError as error:
            return CheckedResources(None, None, (Reason.INVALID_SPEC, _words(error)))
        if profile is None:
            name = spec.spec.profile_ref.name
            text = f"spec.profileRef.name: there is no CascadeProfile {name!r}: apply it"
            return CheckedResources(spec, None, (Reason.PROFILE_MISSING, text))
        measured = self._profile(profile)
        if not isinstance(measured, CascadeProfile):
            return CheckedResources(spec, None, measured)
        try:
            self._preparations.of(placed(spec, pools), measured)
        except PoolMismatch as error:
            return CheckedResources(spec, measured, (Reason.INVALID_SPEC, str(error)))
        except NotPlannable as error:
            return CheckedResources(spec, measured, (error.reason, str(error)))
        return CheckedResources(spec, measured)

    def _profile(self, document: MirroredDocument) -> CascadeProfile | Complaint:
        identity = (document.uid, document.generation)
        known = self._profiles.get(document.key)
        if known is None or known[0] != identity:
            found: CascadeProfile | Complaint
            try:
                found = read_as(document.raw, CascadeProfile)
            except DocumentError as error:
                found = Reason.PROFILE_INVALID, f"CascadeProfile {document.key[1]}: {_words(error)}"
            known = self._profiles[document.key] = (identity, found)
        return known[1]


class ClusterSource:
    """The cascades and WorkerPools in the mirror."""

    def __init__(self, mirror: Mirror, checker: ResourceChecker) -> None:
        self._mirror = mirror
        self._checker = checker
        self._checked: dict[CascadeRef, tuple[object, Subject | Refused]] = {}
        self._valid: dict[CascadeRef, tuple[str, DiffusionCascade, CascadeProfile]] = {}
        self._pools: dict[Key, tuple[object, PoolSubject | None]] = {}

    async def subjects(self) -> Sequence[Subject | Refused] | None:
        if not self._mirror.complete:
            return None
        there = {CascadeRef(*document.key): document for document in self._mirror.cascades if not document.terminating}
        self._checked = {ref: kept for ref, kept in self._checked.items() if ref in there}
        self._valid = {ref: kept for ref, kept in self._valid.items() if ref in there}
        self._look_at_pools()
        return [await self._subject(ref, document) for ref, document in there.items()]

    def pools(self) -> Sequence[PoolSubject]:
        return [subject for _, subject in self._pools.values() if subject is not None]

    def owns(self, ref: CascadeRef) -> bool:
        return self._mirror.covers(ref.namespace)

    async def _subject(self, ref: CascadeRef, document: MirroredDocument) -> Subject | Refused:
        """The subject of a resource; it is checked again only if it, its profile or a WorkerPool changed."""
        name = ((document.raw.get("spec") or {}).get("profileRef") or {}).get("name", "")
        profile = self._mirror.profiles.get((ref.namespace, name)) if isinstance(name, str) else None
        if profile is not None and profile.terminating:
            profile = None
        here = {key[1]: kept for key, kept in self._pools.items() if key[0] == ref.namespace}
        identities = tuple((name, identity) for name, (identity, _) in sorted(here.items()))
        key = (document.uid, document.generation, profile and (profile.uid, profile.generation), identities)
        known = self._checked.get(ref)
        if known is None or known[0] != key:
            pools = {name: subject.pool.spec for name, (_, subject) in here.items() if subject is not None}
            checked = await asyncio.to_thread(self._checker.check, document, profile, pools)
            known = self._checked[ref] = (key, self._decide(ref, document, checked, pools))
        return known[1]

    def _decide(
        self, ref: CascadeRef, document: MirroredDocument, checked: CheckedResources, pools: Pools
    ) -> Subject | Refused:
        status = _status(document.raw.get("status"), CascadeStatus)
        valid = self._last_valid(ref, document.uid)
        if valid is not None and checked.cascade is not None:
            changed = identity_problems(valid[0].spec, checked.cascade.spec)
            if changed:
                checked = CheckedResources(None, None, (Reason.INVALID_SPEC, "; ".join(map(": ".join, changed))))
        if checked.complaint is None and checked.cascade is not None and checked.profile is not None:
            self._valid[ref] = document.uid, checked.cascade, checked.profile
            return Subject(placed(checked.cascade, pools), checked.profile, status, uid=document.uid)
        if valid is not None:
            cascade, profile = valid
            metadata = cascade.metadata.model_copy(update={"generation": document.generation})
            current = cascade.model_copy(update={"metadata": metadata})
            return Subject(_placed_or_bare(current, pools), profile, status, checked.complaint, document.uid)
        if checked.cascade is None:
            return Refused(ref, document.generation, checked.complaint or NOTHING_KNOWN, status)
        bare = _placed_or_bare(checked.cascade, pools)
        return Subject(bare, checked.profile, status, checked.complaint, document.uid)

    def _look_at_pools(self) -> None:
        """Read the WorkerPools again that changed."""
        before, self._pools = self._pools, {}
        for document in self._mirror.worker_pools:
            if document.terminating:
                continue
            known = before.get(document.key)
            identity = (document.uid, document.generation)
            if known is None or known[0] != identity:
                last = known[1] if known is not None else None
                known = identity, _pool_subject(document, last if last and last.uid == document.uid else None)
            self._pools[document.key] = known

    def _last_valid(self, ref: CascadeRef, uid: str) -> tuple[DiffusionCascade, CascadeProfile] | None:
        """The last valid spec and profile of the resource with this ``uid``."""
        known = self._valid.get(ref)
        if known is not None and known[0] == uid:
            return known[1], known[2]
        kept = self._mirror.config_maps.get((ref.namespace, document_name(ref)))
        if kept is None or all(owner.get("uid") != uid for owner in kept.raw["metadata"].get("ownerReferences") or ()):
            return None
        found = last_valid(kept.raw)
        if found is not None:
            self._valid[ref] = uid, *found
        return found


def placed(cascade: DiffusionCascade, pools: Pools) -> DiffusionCascade:
    """The cascade with what its WorkerPools say; raises PoolMismatch."""
    if all(each.pool is None for each in cascade.spec.workers):
        return cascade
    return cascade.model_copy(update={"spec": cascade.spec.on_pools(pools)})


def _placed_or_bare(cascade: DiffusionCascade, pools: Pools) -> DiffusionCascade:
    """The same, or the cascade as it was written where it does not fit the WorkerPools, so that nothing is planned."""
    try:
        return placed(cascade, pools)
    except PoolMismatch:
        return cascade


def _pool_subject(document: MirroredDocument, last: PoolSubject | None) -> PoolSubject | None:
    """A WorkerPool as it is now, or its last valid version with a complaint; None if it has none yet."""
    status = _status(document.raw.get("status"), WorkerPoolStatus)
    try:
        pool = read_as(document.raw, WorkerPool)
    except DocumentError as error:
        problem = _words(error)
    else:
        changed = pool_identity_problems(last.pool.spec, pool.spec) if last is not None else []
        if not changed:
            return PoolSubject(pool, status, uid=document.uid)
        problem = "; ".join(map(": ".join, changed))
    if last is None:
        log.error("a WorkerPool cannot be read", pool="/".join(document.key), problem=problem)
        return None
    metadata = last.pool.metadata.model_copy(update={"generation": document.generation})
    current = last.pool.model_copy(update={"metadata": metadata})
    return PoolSubject(current, status, (Reason.INVALID_SPEC, problem), document.uid)


def read_as(raw: Mapping[str, Any], model: type[T]) -> T:
    """The resource without the fields that the API server adds; raises DocumentError."""
    meta = raw["metadata"]
    metadata = {key: meta[key] for key in ("name", "namespace", "generation") if key in meta}
    bare = {"apiVersion": API_VERSION, "kind": model.__name__, "metadata": metadata, "spec": raw.get("spec")}
    found = read_resource(bare, source=model.__name__)
    if not isinstance(found, model):
        raise TypeError(f"{model.__name__} was read as {type(found).__name__}")
    return found


def _words(error: DocumentError) -> str:
    return "; ".join(f"{problem.field}: {problem.message}" for problem in error.problems[:3])


def _status(raw: object, model: type[S]) -> S | None:
    """The status of the resource; None if there is none, or if another version wrote it."""
    try:
        return model.model_validate(raw) if raw else None
    except ValidationError:
        return None

"""If a resource becomes invalid, its last valid version stays in force, and the message names the field."""

from __future__ import annotations

import copy
from typing import Any

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason
from cascade_api.settings import CPU, PlannerSettings
from cascade_operator.cluster_source import ClusterSource, ResourceChecker
from cascade_operator.clusters.kubernetes.api import CASCADES, CONFIG_MAPS, PROFILES, WORKER_POOLS
from cascade_operator.clusters.kubernetes.mirror import MirroredDocument, Shelf, read_document
from cascade_operator.manifests.documents import cascade_document
from cascade_operator.planning.prepared import Preparations
from cascade_operator.sources import Refused, Subject
from support.factories import make_cascade, make_profile

REF = CascadeRef("default", "shapes")


class FakeMirror:
    """What a mirror shows, without an API server behind it."""

    def __init__(self) -> None:
        self.complete = True
        self.cascades: Shelf[MirroredDocument] = Shelf(CASCADES, read_document, changed=lambda _: None)
        self.profiles: Shelf[MirroredDocument] = Shelf(PROFILES, read_document, changed=lambda _: None)
        self.worker_pools: Shelf[MirroredDocument] = Shelf(WORKER_POOLS, read_document, changed=lambda _: None)
        self.config_maps: Shelf[MirroredDocument] = Shelf(CONFIG_MAPS, read_document, changed=lambda _: None)

    def covers(self, namespace: str) -> bool:
        return namespace == "default"


class World:
    """A source over a mirror whose resources change under its hands."""

    def __init__(self, mirror: FakeMirror | None = None) -> None:
        self.mirror = mirror or FakeMirror()
        self.checker = ResourceChecker(Preparations(PlannerSettings(), (CPU,)))
        self.source = ClusterSource(self.mirror, self.checker)  # type: ignore[arg-type]
        self.version = 0

    def put(self, raw: dict[str, Any], *, uid: str = "u", **meta: Any) -> None:
        """A resource as the API server has it from now on."""
        self.version += 1
        metadata = {**raw["metadata"], "uid": uid, "generation": self.version, "resourceVersion": str(self.version)}
        shelf = {
            "DiffusionCascade": self.mirror.cascades,
            "CascadeProfile": self.mirror.profiles,
            "WorkerPool": self.mirror.worker_pools,
        }[raw["kind"]]
        shelf.put({**copy.deepcopy(raw), "metadata": metadata | meta})

    async def subject(self) -> Subject:
        (only,) = await self.source.subjects() or ()
        assert isinstance(only, Subject)
        return only


def cascade_json(**spec: Any) -> dict[str, Any]:
    raw = make_cascade().wire()
    raw["spec"] = {**raw["spec"], **spec}
    return raw


def profile_json(**spec: Any) -> dict[str, Any]:
    raw = make_profile().wire()
    raw["spec"] = {**raw["spec"], **spec}
    return raw


def valid_world() -> World:
    world = World()
    world.put(profile_json(), uid="p")
    world.put(cascade_json())
    return world


def pool_json(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "diffusioncascade.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "slots", "namespace": "default"},
        "spec": {"class": "cpu", "workers": {"max": 4}, **spec},
    }


def on_a_pool(pool: dict[str, Any] | None = None) -> World:
    """A cascade that names the WorkerPool ``slots``."""
    world = World()
    world.put(profile_json(), uid="p")
    world.put(pool or pool_json(), uid="w")
    world.put(cascade_json(workers=[{"pool": "slots", "max": 2}]))
    return world


def bad_workers() -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = copy.deepcopy(cascade_json()["spec"]["workers"])
    workers[0] |= {"min": 3, "max": 2}
    return workers


async def test_what_is_valid_is_planned_as_it_is() -> None:
    subject = await valid_world().subject()
    assert subject.complaint is None
    assert subject.uid == "u"
    assert subject.profile == make_profile().model_copy(update={"metadata": subject.profile.metadata})  # type: ignore[union-attr]


async def test_until_everything_was_seen_nothing_is_known() -> None:
    world = valid_world()
    world.mirror.complete = False
    assert await world.source.subjects() is None


async def test_a_bad_spec_leaves_the_last_good_one_in_force_and_names_the_field() -> None:
    world = valid_world()
    before = await world.subject()
    world.put(cascade_json(workers=bad_workers()))
    after = await world.subject()
    assert after.cascade.spec is before.cascade.spec
    assert after.cascade.metadata.generation == world.version, "the status is about what the user wrote"
    assert after.complaint is not None
    reason, message = after.complaint
    assert reason is Reason.INVALID_SPEC
    assert "spec.workers.0.min" in message
    world.put(cascade_json())
    assert (await world.subject()).complaint is None


async def test_the_model_of_a_variant_that_stays_is_immutable_also_where_the_api_server_lets_it_change() -> None:
    world = valid_world()
    before = await world.subject()
    variants = copy.deepcopy(cascade_json()["spec"]["variants"])
    variants[1]["model"]["revision"] = "1" * 64
    world.put(cascade_json(variants=variants))
    after = await world.subject()
    assert after.cascade.spec is before.cascade.spec
    assert after.complaint == (
        Reason.INVALID_SPEC, "spec.variants.1.model: is immutable: add a variant under a new name, then remove this one"
    )  # fmt: skip
    world.put(cascade_json())
    assert (await world.subject()).complaint is None


async def test_a_bad_profile_or_one_that_does_not_fit_does_the_same() -> None:
    world = valid_world()
    before = await world.subject()
    for spoilt, reason, field in (
        (profile_json(objectiveMetric="beauty"), Reason.PROFILE_INVALID, "objectiveMetric"),
        (profile_json(execution=[e for e in profile_json()["spec"]["execution"] if e["variant"] == "light"]),
         Reason.PROFILE_INVALID, "spec.variants.1.name"),
    ):  # fmt: skip
        world.put(spoilt, uid="p")
        after = await world.subject()
        assert after.profile is before.profile
        assert after.complaint is not None
        assert after.complaint[0] is reason
        assert field in after.complaint[1]


async def test_a_profile_that_is_deleted_is_missed_but_goes_on_to_be_used() -> None:
    world = valid_world()
    before = await world.subject()
    world.mirror.profiles.drop(("default", "shapes"), "p")
    after = await world.subject()
    assert after.profile is before.profile
    assert after.complaint is not None
    assert after.complaint[0] is Reason.PROFILE_MISSING


async def test_an_operator_that_starts_while_a_spec_is_bad_finds_the_last_good_one() -> None:
    before = await valid_world().subject()
    assert before.profile is not None
    world = World()
    document = cascade_document(before.cascade, before.profile, uid="u")
    world.mirror.config_maps.put(document)
    world.put(profile_json(), uid="p")
    world.put(cascade_json(workers=bad_workers()))
    subject = await world.subject()
    assert subject.cascade.spec == before.cascade.spec
    assert subject.complaint is not None


async def test_the_copy_of_a_deleted_cascade_of_the_same_name_is_not_used() -> None:
    before = await valid_world().subject()
    assert before.profile is not None
    world = World()
    world.mirror.config_maps.put(cascade_document(before.cascade, before.profile, uid="another"))
    world.put(cascade_json(workers=bad_workers()))
    (only,) = await world.source.subjects() or ()
    assert isinstance(only, Refused)
    assert only.complaint[0] is Reason.INVALID_SPEC


async def test_without_anything_good_yet_the_cascade_is_told_why() -> None:
    world = World()
    world.put(cascade_json())
    subject = await world.subject()
    assert subject.profile is None
    assert subject.complaint is not None
    assert subject.complaint[0] is Reason.PROFILE_MISSING


async def test_a_cascade_that_is_being_deleted_is_gone_and_only_watched_namespaces_are_owned() -> None:
    world = valid_world()
    world.put(cascade_json(), deletionTimestamp="2026-01-01T00:00:00Z")
    assert await world.source.subjects() == []
    assert world.source.owns(REF)
    assert not world.source.owns(CascadeRef("elsewhere", "shapes"))


async def test_an_unchanged_resource_is_checked_once() -> None:
    world = valid_world()
    assert await world.subject() is await world.subject()


async def test_a_cascade_on_a_worker_pool_has_what_the_pool_says_and_is_checked_again_when_that_changes() -> None:
    world = on_a_pool()
    before = await world.subject()
    (workers,) = before.cascade.spec.workers
    assert (before.complaint, workers.accelerator_class, workers.hosting.value) == (None, "cpu", "shared")
    assert before.cascade.wire()["spec"]["workers"] == [{"pool": "slots", "max": 2}], "what was written stays"
    world.put(pool_json(hosting="dedicated"), uid="w")
    (workers,) = (await world.subject()).cascade.spec.workers
    assert workers.hosting.value == "dedicated"
    (pool,) = world.source.pools()
    assert (pool.uid, pool.complaint) == ("w", None)


async def test_a_wrong_worker_pool_leaves_the_last_valid_one_in_force_and_harms_no_cascade() -> None:
    for spoilt, field in (
        (pool_json(workers={"min": 5, "max": 2}), "spec.workers.min"),
        (pool_json(**{"class": "other"}), "spec.class: is immutable"),
    ):
        world = on_a_pool()
        before = await world.subject()
        world.put(spoilt, uid="w")
        after = await world.subject()
        assert (after.cascade.spec, after.complaint) == (before.cascade.spec, None)
        (pool,) = world.source.pools()
        assert pool.pool.spec.workers.max == 4
        assert pool.pool.metadata.generation == world.version, "the status is about what the user wrote"
        assert pool.complaint is not None
        assert field in pool.complaint[1]


async def test_a_worker_pool_that_is_gone_is_missed_by_name_until_it_is_there_again() -> None:
    world = on_a_pool()
    assert (await world.subject()).complaint is None
    world.mirror.worker_pools.drop(("default", "slots"), "w")
    without = await world.subject()
    assert without.complaint == (Reason.INVALID_SPEC, "spec.workers.0.pool: there is no WorkerPool 'slots': add it")
    assert not without.cascade.spec.accelerators, "so nothing is planned"
    assert world.source.pools() == []
    world.put(pool_json(), uid="again")
    again = await world.subject()
    assert again.complaint is None
    assert again.cascade.spec.accelerators == {"cpu": 2}
    # Made again with another class, for which the cascade has no profile, it refuses the cascade and no more.
    world.mirror.worker_pools.drop(("default", "slots"), "again")
    world.put(pool_json(**{"class": "unmeasured"}), uid="third")
    (pool,) = world.source.pools() if await world.source.subjects() else ()
    assert pool.complaint is None
    complaint = (await world.subject()).complaint
    assert complaint is not None
    assert complaint[0] is Reason.PROFILE_INVALID

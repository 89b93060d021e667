"""Whatever becomes of a resource, what was valid last stays in force, and the complaint names the field."""

from __future__ import annotations

import copy
from typing import Any

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason
from cascade_api.settings import CPU, PlannerSettings
from cascade_operator.cluster_source import ClusterSource, ResourceChecker
from cascade_operator.clusters.kubernetes.api import CASCADES, CONFIG_MAPS, PROFILES
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
        shelf = self.mirror.cascades if raw["kind"] == "DiffusionCascade" else self.mirror.profiles
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

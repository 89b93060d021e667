"""What an agent is told of a cascade's variants, it understands, and makes the models of it that the plan names."""

from __future__ import annotations

import pytest

from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import load_documents
from cascade_api.hosts import host_entries, hosts_document
from cascade_api.profile import CascadeProfile
from cascade_models import manifest
from cascade_models.agent.wanted import WantedHosts
from cascade_models.manifest import ManifestError
from support.resources import cascade_document, profile_document
from support.triton import HEAVY, LIGHT, shapes_manifest

TEXT = shapes_manifest(**{"shapes-quick": {"steps": 8}, "shapes-guided": {"steps": 12, "guidance": "1.5"}})
DOCUMENTS = load_documents(TEXT, source="test")
CASCADE = next(document for document in DOCUMENTS if isinstance(document, DiffusionCascade))
PROFILE = next(document for document in DOCUMENTS if isinstance(document, CascadeProfile))


def told(*serves: str) -> WantedHosts:
    return WantedHosts.read({"variants": host_entries(CASCADE.spec, PROFILE.spec, serves)})


def test_a_worker_is_told_the_same_as_a_rendered_manifest() -> None:
    names = [variant.name for variant in CASCADE.spec.variants]
    wanted = told(*names)
    from_manifest = WantedHosts.of(manifest.read_variants(TEXT))
    assert wanted == from_manifest
    assert set(wanted.recipes) == {variant.weights.model for variant in CASCADE.spec.variants} == {LIGHT, HEAVY}


@pytest.mark.parametrize("served", ["shapes-heavy", "shapes-quick", "shapes-guided"])
def test_going_from_one_variant_to_another_of_the_same_weights_changes_no_process(served: str) -> None:
    wanted = told(served)
    assert wanted.prints == {HEAVY: told("shapes-heavy").prints[HEAVY]}
    assert wanted.proofs[HEAVY] == CASCADE.spec.variant(served).settings.parameters | (
        {"guidance": "1.500"} if served == "shapes-guided" else {}
    )


def test_only_the_first_adapter_of_weights_gives_them_a_new_process() -> None:
    """They are compiled before, where there is a GPU. Whoever serves them already learns of further ones."""
    public = {"model": {"source": "hf://me/mine", "revision": "0" * 40}, "engine": "diffusers"}

    def prints(*names: str, **more: int) -> dict[str, str]:
        adapters = [{"name": name, "source": f"hf://owner/{name}", "revision": "1" * 40} for name in names]
        variant = {"name": "light", "settings": {"steps": 4}, "sizes": ["512x512"], **public, **more}
        return WantedHosts.read({"variants": [{**variant, **({"adapters": adapters} if names else {})}]}).prints

    assert prints("ink") == prints("ink", "oil") == prints("oil", adapterMemoryMiB=64)
    assert prints() != prints("ink")


def test_a_worker_is_told_of_adapters_and_of_the_room_for_them() -> None:
    spec = DiffusionCascade.model_validate(cascade_document()).spec
    profile = CascadeProfile.model_validate(profile_document()).spec
    (heavy,) = [entry for entry in host_entries(spec, profile, ["heavy"]) if entry["name"] == "heavy"]
    wire = spec.variant("heavy").wire()
    assert (heavy["adapters"], heavy["adapterMemoryMiB"]) == (wire["adapters"], 512)


def test_a_worker_of_several_cascades_is_told_of_the_variants_of_all_which_have_its_weights() -> None:
    other = next(
        document
        for document in load_documents(shapes_manifest(**{"shapes-slow": {"steps": 48}}), source="test")
        if isinstance(document, DiffusionCascade)
    )
    both = [(CASCADE.spec, PROFILE.spec), (other.spec, PROFILE.spec)]
    heavy = CASCADE.spec.variant("shapes-heavy").weights.digest
    document = hosts_document(both, [heavy])
    names = [entry["name"] for entry in document["variants"]]
    assert sorted(names) == ["shapes-guided", "shapes-heavy", "shapes-quick", "shapes-slow"], "each of them once"
    assert set(WantedHosts.read(document).recipes) == {HEAVY}
    light = CASCADE.spec.variant("shapes-light").weights.digest
    assert set(WantedHosts.read(hosts_document(both, [heavy, light])).recipes) == {HEAVY, LIGHT}
    assert hosts_document(both, ["unknown"])["variants"] == []


def test_an_entry_that_lacks_something_is_refused_by_its_place() -> None:
    for missing in ("model", "engine", "settings", "sizes"):
        entries = host_entries(CASCADE.spec, PROFILE.spec, ["shapes-light", "shapes-heavy"])
        del entries[1][missing]
        with pytest.raises(ManifestError) as refused:
            WantedHosts.read({"variants": entries})
        assert refused.value.field == f"variants.1.{missing}"

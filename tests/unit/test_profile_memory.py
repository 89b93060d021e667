"""Memory rows of a profile: whom they hold for, and what contradicts itself."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cascade_api.profile import contradictions, profile_for
from cascade_api.variants import Variant
from support.factories import make_cascade, make_profile

LIGHT = {"variant": "light", "class": "cpu", "restMiB": 100}


def test_a_row_holds_for_every_variant_of_the_weights() -> None:
    profile = make_profile(memory=[LIGHT])
    alone = make_cascade()
    shared = make_cascade(heavy__model=alone.spec.variants[0].model.wire())
    found = [{row.variant for row in profile_for(cascade.spec, profile.spec).memory} for cascade in (alone, shared)]
    assert found == [{"light"}, {"light", "heavy"}]


@pytest.mark.parametrize(("adapted", "reserved"), [({}, 0), ({"adapterMemoryMiB": 300}, 300), ({"default": 1}, 1024)])
def test_what_adapters_may_take_counts_for_all_variants_of_the_weights(adapted: dict[str, int], reserved: int) -> None:
    """A profile is measured without adapters."""
    adapters = [{"name": "ink", "source": "hf://owner/ink", "revision": "0" * 40}] if adapted else None
    public = {"source": "hf://owner/model", "revision": "0" * 40}
    memory = {"adapter_memory_mi_b": adapted.get("adapterMemoryMiB")}
    cascade = make_cascade(
        light__model=public, heavy__model=public, light__engine="diffusers", heavy__engine="diffusers"
    )
    light, heavy = cascade.spec.variants
    light = Variant.model_validate({**light.wire(), "adapters": adapters, **memory})
    spec = cascade.spec.model_copy(update={"variants": [light, heavy]})
    profile = make_profile(memory=[LIGHT]).spec
    found = profile_for(spec, profile)
    assert {(row.variant, row.rest_mi_b) for row in found.memory} == {
        (name, 100 + reserved) for name in ("light", "heavy")
    }
    before = {(row.variant, row.batch): row.memory_mi_b for row in profile.execution}
    assert {key: before[key] + reserved for key in before} == {
        (row.variant, row.batch): row.memory_mi_b for row in found.execution
    }


def test_a_component_has_one_size_on_a_class() -> None:
    rows = [
        {**LIGHT, "components": [{"name": "t5", "memoryMiB": 9000}]},
        {**LIGHT, "variant": "heavy", "components": [{"name": "clip", "memoryMiB": 1}, {"name": "t5", "memoryMiB": 8}]},
    ]
    ((field, message),) = contradictions(make_profile(memory=rows).spec)
    assert field == "spec.memory.1.components.1.memoryMiB"
    assert "9000 MiB elsewhere" in message


def test_the_same_weights_are_not_measured_twice() -> None:
    with pytest.raises(ValidationError, match="there twice"):
        make_profile(memory=[LIGHT, LIGHT])

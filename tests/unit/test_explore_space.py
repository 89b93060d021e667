"""Which settings `cascade explore` tries, and what it thinks that they cost."""

from __future__ import annotations

import dataclasses

import pytest

from cascade_api.command import CommandFailed
from cascade_models import catalogue
from cascade_models.recipe import Settings, SettingsSpace
from cascade_profiler.explore.options import narrowed
from cascade_profiler.explore.prices import prices, to_time
from cascade_profiler.explore.space import NameTooLong, candidates, name_of, with_precisions
from support.exploring import shapes_variants

LIGHT, HEAVY = shapes_variants()
BOTH = (LIGHT, HEAVY)


def test_all_settings_are_tried_and_variants_keep_their_names() -> None:
    spaces = {HEAVY.model: SettingsSpace((4, 24), (1.0, None)), LIGHT.model: SettingsSpace((1, 2))}
    found = {one.name: one.settings for one in candidates(BOTH, spaces)}
    assert found == {
        "shapes-heavy-4-unguided": Settings(4, 1.0),
        "shapes-heavy-24-unguided": Settings(24, 1.0),
        "shapes-heavy-4": Settings(4),
        "shapes-heavy": HEAVY.settings,
        "shapes-light-1": Settings(1),
        "shapes-light": LIGHT.settings,
    }


def test_a_variant_outside_the_space_is_tried_too() -> None:
    found = candidates([HEAVY], {HEAVY.model: SettingsSpace((4,))})
    assert [one.name for one in found] == ["shapes-heavy-4", "shapes-heavy"]


def test_names_say_what_differs() -> None:
    assert name_of(HEAVY, Settings(12, 4.5)) == "shapes-heavy-12-g4-5"
    large = dataclasses.replace(HEAVY, name="large-28", settings=Settings(28))
    assert name_of(large, Settings(12)) == "large-12"
    assert name_of(large, Settings(12, 4.5, "", "first-block:0.08")) == "large-12-g4-5-fb0-08"
    assert name_of(large, Settings(12, None, "", "taylor-seer:3")) == "large-12-ts3"
    with pytest.raises(NameTooLong, match="shorter name"):
        name_of(dataclasses.replace(HEAVY, name="x" * 35), Settings(12, 1.0))


def test_public_models_have_a_space_that_their_weights_allow() -> None:
    for entry in catalogue.entries().values():
        assert entry.search.steps
        if entry.weights:
            assert set(entry.search.steps) == set(entry.weights.values())
        assert entry.steps in entry.search.steps
        if entry.search.guidance != (None,):
            assert entry.assembly.guidance in entry.search.guidance


def test_options_narrow_the_space_of_all_weights_or_of_one() -> None:
    spaces = {one.model: SettingsSpace((1, 2), (None,)) for one in BOTH}
    found = narrowed(
        spaces,
        BOTH,
        steps=["1", "shapes-heavy=4, 8"],
        guidance=["shapes-heavy=none,own,2.5"],
        guided=["shapes-heavy=15-60"],
        step_cache=["shapes-heavy=none,taylor-seer:3"],
        precision=["shapes-heavy=own,int8"],
    )
    assert found == {
        LIGHT.model: SettingsSpace((1,), (None,)),
        HEAVY.model: SettingsSpace((4, 8), (1.0, None, 2.5), ("", "15-60"), ("", "taylor-seer:3"), ("int8",)),
    }


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("steps", "four", "--steps: 'four' is not a number of steps"),
        ("steps", "0", "--steps: '0' is not"),
        ("steps", "medium=4", "--steps: no variant 'medium': name one of shapes-light, shapes-heavy"),
        ("guidance", "some", "--guidance: 'some' is not a scale"),
        ("guidance", "nan", "--guidance: 'nan' is not a scale"),
        ("guided", "60-15", "--guided: '60-15' is not a part of the steps"),
        ("step_cache", "first-block", "--step-cache: 'first-block' is not a step cache"),
        ("step_cache", "first-block:0", "--step-cache: 'first-block:0' is not"),
        ("step_cache", "taylor-seer:1", "--step-cache: 'taylor-seer:1' is not"),
        ("precision", "int4", "--precision: 'int4' is not a precision"),
    ],
)
def test_wrong_options_are_named(option: str, text: str, said: str) -> None:
    spaces = {one.model: SettingsSpace((1,)) for one in BOTH}
    none: dict[str, list[str]] = {name: [] for name in ("steps", "guidance", "guided", "step_cache", "precision")}
    with pytest.raises(CommandFailed, match=said):
        narrowed(spaces, BOTH, **{**none, option: [text]})


def test_the_ends_of_each_line_are_timed_and_the_rest_lies_between() -> None:
    tried = candidates([HEAVY], {HEAVY.model: SettingsSpace((2, 4, 8, 24), (1.0, None, 3.0))})
    timed = {one.name for one in to_time(tried)}
    assert timed == {
        "shapes-heavy-2-unguided",
        "shapes-heavy-24-unguided",
        "shapes-heavy-2",
        "shapes-heavy-24-g3",
    }
    measured = dict(zip(sorted(timed), (0.4, 0.3, 0.8, 0.5), strict=True))
    found = prices(tried, measured)
    assert found["shapes-heavy-2"] == found["shapes-heavy-2-g3"] == measured["shapes-heavy-2"]
    assert found["shapes-heavy"] == pytest.approx(measured["shapes-heavy-24-g3"])
    low, high = measured["shapes-heavy-2-unguided"], measured["shapes-heavy-24-unguided"]
    assert found["shapes-heavy-4-unguided"] == pytest.approx(low + (high - low) * 2 / 22)


def test_a_part_of_the_steps_may_be_guided_where_that_differs() -> None:
    space = SettingsSpace((1, 4, 6), (1.0, None), ("", "15-60"))
    found = {one.name: one for one in candidates([HEAVY], {HEAVY.model: space})}
    assert {name: one.settings.guided_steps for name, one in found.items() if "15to60" in name} == {
        "shapes-heavy-4-15to60": 2,
        "shapes-heavy-6-15to60": 3,
    }
    assert [step for step in range(6) if found["shapes-heavy-6-15to60"].settings.guides(step)] == [1, 2, 3]
    tried = list(found.values())
    timed = {
        "shapes-heavy-1-unguided": 0.2,
        "shapes-heavy-6-unguided": 0.7,
        "shapes-heavy-1": 0.25,
        "shapes-heavy": 4.85,
    }
    assert {one.name for one in to_time(tried)} == set(timed)
    found_s = prices(tried, timed)
    # A step takes 0.1 s, and a guided one 0.2 s.
    assert found_s["shapes-heavy-6-15to60"] == pytest.approx(0.7 + 3 * 0.1)


def test_other_precisions_are_other_weights_in_the_same_settings() -> None:
    spaces = {HEAVY.model: SettingsSpace((4,), precisions=("int8",)), LIGHT.model: SettingsSpace((2,))}
    variants, all_spaces = with_precisions(BOTH, spaces)
    found = {one.name: one for one in candidates(variants, all_spaces)}
    assert list(found) == [
        "shapes-heavy-4", "shapes-heavy", "shapes-light", "shapes-heavy-int8-4", "shapes-heavy-int8-24",
    ]  # fmt: skip
    assert len({one.model for one in found.values()}) == 3
    assert [one.precision for one in found.values()] == ["", "", "", "int8", "int8"]


def test_step_caches_are_tried_where_they_save_steps_and_have_prices_of_their_own() -> None:
    space = SettingsSpace((1, 3, 9), (None,), step_caches=("", "first-block:0.08", "taylor-seer:3"))
    tried = [one for one in candidates([HEAVY], {HEAVY.model: space}) if one is not HEAVY]
    assert {one.name: one.settings.step_cache for one in tried if one.settings.step_cache} == {
        "shapes-heavy-3-fb0-08": "first-block:0.08",
        "shapes-heavy-9-fb0-08": "first-block:0.08",
        "shapes-heavy-9-ts3": "taylor-seer:3",
    }
    timed = {"shapes-heavy-1": 0.1, "shapes-heavy-9": 0.9, "shapes-heavy-3-fb0-08": 0.2, "shapes-heavy-9-fb0-08": 0.5}
    found = prices(tried, {**timed, "shapes-heavy-9-ts3": 0.4})
    assert found["shapes-heavy-3"] == pytest.approx(0.3)
    assert {name: found[name] for name in timed} == pytest.approx(timed)


@pytest.mark.parametrize(
    ("guidance", "expected"), [((None,), 0.05 + 0.1 * 6 / 2 + 0.1 * 2 / 2), ((1.0,), 0.05 + 0.1 * 8)]
)
def test_a_line_that_was_not_timed_is_drawn_by_passes(guidance: tuple[float | None, ...], expected: float) -> None:
    partly = dataclasses.replace(HEAVY, name="partly", settings=Settings(6, None, "16-50"))
    ends = [dataclasses.replace(HEAVY, name=f"s{steps}", settings=Settings(steps, guidance[0])) for steps in (1, 11)]
    found = prices([*ends, partly], {"s1": 0.15, "s11": 1.15})
    assert found["partly"] == pytest.approx(expected)


def test_noise_never_makes_more_steps_cheaper() -> None:
    tried = candidates([HEAVY], {HEAVY.model: SettingsSpace((2, 24))})
    assert set(prices(tried, {"shapes-heavy-2": 0.3, "shapes-heavy": 0.2}).values()) == {0.3}

"""The candidates of a search: every setting that is worth trying of the weights that a manifest names. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from cascade_api.variants import EDIT_STEPS
from cascade_models.manifest import ManifestVariant
from cascade_models.recipe import FIRST_BLOCK, TAYLOR_SEER, Settings, SettingsSpace

UNGUIDED: Final = 1.0
"""The scale at which guidance has no effect, so that a step is one pass through the network instead of two."""
LONGEST_NAME: Final = 40
_SHORT: Final = {FIRST_BLOCK: "fb", TAYLOR_SEER: "ts"}


class NameTooLong(ValueError):
    """The name of a candidate would be longer than a variant's may be."""


def candidates(variants: Sequence[ManifestVariant], spaces: Mapping[str, SettingsSpace]) -> list[ManifestVariant]:
    """The variants themselves, and one more for each other setting in the space of their weights.

    ``spaces`` has the space by the name of the weights' Triton model. A candidate has the name of the first variant of
    its weights, with its steps and guidance; see `name_of`. The order is that of the variants, and within the same
    weights by guidance and steps. Raises NameTooLong.
    """
    found: list[ManifestVariant] = []
    for model, space in spaces.items():
        own = [variant for variant in variants if variant.model == model]
        known = {variant.settings: variant for variant in own}
        for settings in dict.fromkeys([*_tried(space), *known]):
            found.append(known.get(settings) or _derived(own[0], settings))
    return found


def with_precisions(
    variants: Sequence[ManifestVariant], spaces: Mapping[str, SettingsSpace]
) -> tuple[list[ManifestVariant], dict[str, SettingsSpace]]:
    """The variants, and one for each other precision of their weights, which is other weights; with all spaces.

    It is ``heavy-int8-24`` for a variant ``heavy`` or ``heavy-24`` with 24 steps. Raises NameTooLong.
    """
    found, all_spaces = list(variants), dict(spaces)
    for model, space in spaces.items():
        own = next(variant for variant in variants if variant.model == model)
        for precision in space.precisions:
            named = replace(own, name=f"{own.name.removesuffix(f'-{own.settings.steps}')}-{precision}")
            other = replace(named, name=name_of(named, own.settings), precision=precision)
            if other.model not in all_spaces:
                found.append(other)
                all_spaces[other.model] = space
    return found, all_spaces


def _tried(space: SettingsSpace) -> Iterator[Settings]:
    """The settings of a space, without those that differ from others only in name."""
    for guidance, cache in itertools.product(space.guidance, space.step_caches):
        for interval in space.intervals if guidance != UNGUIDED else ("",):
            for steps in space.steps:
                settings = Settings(steps, guidance, interval, cache)
                if cache and not settings.saves_steps:
                    continue
                if not interval or 0 < settings.guided_steps < steps:
                    yield settings


def name_of(variant: ManifestVariant, settings: Settings) -> str:
    """The name of a variant with other settings.

    It is ``heavy-12``, ``heavy-12-unguided``, ``heavy-12-g4-5``, ``heavy-12-15to60``, ``heavy-12-fb0-08`` or
    ``heavy-12-ts3`` for a variant ``heavy``, or ``heavy-24`` with 24 steps.
    """
    base = variant.name.removesuffix(f"-{variant.settings.steps}")
    name = f"{base}-{settings.steps}"
    if settings.guidance == UNGUIDED:
        name += "-unguided"
    elif settings.guidance is not None:
        name += "-g" + f"{settings.guidance:g}".replace(".", "-")
    if settings.guidance_interval:
        name += f"-{settings.guidance_interval.replace('-', 'to')}"
    if settings.step_cache:
        kind, _, amount = settings.step_cache.partition(":")
        name += f"-{_SHORT[kind]}{amount.replace('.', '-')}"
    if len(name) > LONGEST_NAME:
        raise NameTooLong(f"{name!r} is longer than {LONGEST_NAME} characters: give {variant.name!r} a shorter name")
    return name


def guided_steps(variant: ManifestVariant) -> int:
    """How many of a variant's steps may take the time of guided ones."""
    return 0 if variant.settings.guidance == UNGUIDED else variant.settings.guided_steps


def _derived(variant: ManifestVariant, settings: Settings) -> ManifestVariant:
    edits = variant.edits and settings.steps >= EDIT_STEPS
    return replace(variant, name=name_of(variant, settings), settings=settings, edits=edits)

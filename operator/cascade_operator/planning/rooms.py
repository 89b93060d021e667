"""What fits on a worker together: weights once, the components that they share once, and the images in flight on top.

    memory of a set = Σ over its weights of (rest + images in flight · memory of an image) + Σ over their components

The images in flight are those of the largest batch that was measured. Weights without a row in `spec.memory` of the
profile count with what a worker used at that batch (`spec.execution`), and what was not measured at all counts nothing.
All of them include the room for adapters that the manifest gives (`profile_for`).
"""

from __future__ import annotations

from collections.abc import Mapping

from cascade_api.cascade import CascadeSpec
from cascade_api.profile import ProfileSpec
from cascade_api.workers import Hosting

from .allocation import HostSet, Hull, Weighed, maximal_sets


class TooLarge(Exception):
    """Weights that fit no worker of a class; the message names their variants."""


def rooms_of(spec: CascadeSpec, profile: ProfileSpec, memory_mib: Mapping[str, int]) -> tuple[HostSet, ...]:
    """The largest sets of weights that workers of the cascade may host, for all of its classes.

    Args:
        spec: the cascade.
        profile: its profile, with a row for every variant whose weights have one (`profile_for`).
        memory_mib: memory of an accelerator by class; 0 or absent: not known, so that everything fits.

    Raises TooLarge for weights that do not fit a worker alone.
    """
    found: list[HostSet] = []
    for pool in spec.workers:
        name = pool.accelerator_class
        weights = weights_of(spec, profile, name)
        there_mib = memory_mib.get(name, 0)
        if pool.hosting is Hosting.DEDICATED:
            found += [HostSet.of([each.digest], name) for each in weights]
            # A large batch is left out where a worker hosts nothing else, so one image must fit.
            weights = [each for each in weights_of(spec, profile, name, images=1) if each.known]
        if there_mib:
            for each in weights:
                if each.total_mib > there_mib:
                    raise TooLarge(
                        f"spec.variants: {', '.join(each.variants)}: the weights take {each.total_mib} MiB, and class "
                        f"{name} has {there_mib}: remove it, or use a class with more"
                    )
        if pool.hosting is Hosting.SHARED:
            found += maximal_sets(weights, there_mib, name)
    return tuple(found)


def weights_of(
    spec: CascadeSpec, profile: ProfileSpec, accelerator_class: str, *, images: int | None = None
) -> list[Weighed]:
    """The weights of a cascade on a class, with the memory that they take.

    ``images`` is how many may be in flight at once; None: as many as the largest batch that was measured. Of variants
    of the same weights the one that takes most counts.
    """
    users: dict[str, list[str]] = {}
    for variant in spec.variants:
        if accelerator_class in spec.classes_of(variant):
            users.setdefault(variant.weights.digest, []).append(variant.name)
    return [_weighed(digest, names, profile, accelerator_class, images) for digest, names in users.items()]


def _weighed(digest: str, names: list[str], profile: ProfileSpec, on: str, images: int | None) -> Weighed:
    batches = [row for row in profile.execution if row.accelerator_class == on and row.variant in names]
    uses = [use for use in profile.memory if use.accelerator_class == on and use.variant in names]
    if not uses:
        used = (row.memory_mi_b for row in batches if images is None or row.batch <= images)
        return Weighed(digest, tuple(names), max(used, default=0))
    most = images or max((row.batch for row in batches), default=1)
    components = {part.name: part.memory_mi_b for use in uses for part in use.components}
    rest_mib = max(use.rest_mi_b + most * use.image_mi_b for use in uses)
    return Weighed(digest, tuple(names), rest_mib, components, known=True)


def with_one_long_variant(sets: tuple[HostSet, ...], hull: Hull) -> tuple[HostSet, ...]:
    """The sets without those that hold two variants which are not much shorter than the longest, if others hold all.

    On a worker that has both in hand one waits for the other, and each has a queue of its own where not all workers
    host all variants.
    """
    longest = max(hull.batches, key=hull.image_s, default=None)
    long = {hull.weights[name] for name in hull.batches if name == longest or hull.queue_of(name)}
    chosen = tuple(each for each in sets if len(long.intersection(each.weights)) <= 1)
    covered = {digest for each in chosen for digest in each.weights}
    return chosen if covered >= {hull.weights[name] for name in hull.batches} else sets

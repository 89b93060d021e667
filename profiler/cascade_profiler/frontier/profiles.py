"""Loads a profile from a file or by the name of a reference profile, and checks all that planners and simulators rely
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cascade_api.cascade import DiffusionCascade
from cascade_api.chains import Variants
from cascade_api.documents import load_documents
from cascade_api.profile import CascadeProfile, ProfileSpec, contradictions, profile_for
from cascade_operator.planning.allocation import Chain, Frontier, QualityGrid, measured

from .inputs import BadInput, text_of
from .reference import FULL_GRID, REFERENCE_PROFILES, reference_profile


class Charges:
    """The objective metric that served images are charged with: of a chain at any (r, d), or of a single variant."""

    def __init__(self, profile: CascadeProfile) -> None:
        spec = profile.spec
        self._frontier: Frontier = measured(spec, variants=variants_of(spec))
        self._grids: Mapping[Variants, QualityGrid] = {
            chain.chain: QualityGrid(chain) for chain in self._frontier.chains
        }
        self._alone = {name: self._frontier.metric(value) for name, value in _alone(self._frontier.chains).items()}

    def chain(self, chain: Variants, *, direct: float, escalation: float) -> float:
        """The quality of a chain at these shares, interpolated bilinearly on its grid."""
        return self._frontier.metric(self._grids[chain].value(direct, escalation))

    def alone(self, variant: str) -> float:
        """The quality if one variant makes every image."""
        return self._alone[variant]


@dataclass(frozen=True)
class LoadedProfile:
    """A profile to plan with, the charges for served images, and the cascade in the same file, if any.

    ``profile`` has the times of the cascade's default size, and ``sized`` those of all sizes that were measured.
    """

    name: str
    profile: CascadeProfile
    charges: Charges
    cascade: DiffusionCascade | None = None
    sized: CascadeProfile | None = None


def load_profile(name: str) -> LoadedProfile:
    """The profile of a YAML file, or one of REFERENCE_PROFILES. Raises BadInput or DocumentError."""
    if name in REFERENCE_PROFILES:
        profile = reference_profile(name)
        grid = reference_profile(FULL_GRID) if name.startswith("hadis-") else profile
        return LoadedProfile(name, profile, Charges(grid))
    path = Path(name)
    if not path.exists():
        raise BadInput(name, f"is neither a file nor a reference profile ({', '.join(REFERENCE_PROFILES)})")
    return _from_file(path)


def variants_of(profile: ProfileSpec) -> list[str]:
    """All variants that are part of a chain, in the order of the profile."""
    names = dict.fromkeys(name for row in profile.quality for name in row.chain)
    return [name for name in dict.fromkeys(row.variant for row in profile.execution) if name in names]


def _from_file(path: Path) -> LoadedProfile:
    documents = load_documents(text_of(path), source=str(path))
    profiles = [d for d in documents if isinstance(d, CascadeProfile)]
    if len(profiles) != 1:
        raise BadInput(str(path), f"has {len(profiles)} CascadeProfiles: exactly one is needed")
    (profile,) = profiles
    check(profile.spec, source=str(path))
    named = (d for d in documents if isinstance(d, DiffusionCascade))
    cascade = next((c for c in named if c.spec.profile_ref.name == profile.metadata.name), None)
    size = profile.spec.execution[0].size if cascade is None else cascade.spec.sizes[0]
    spec = profile.spec.at(size) if cascade is None else profile_for(cascade.spec, profile.spec)
    if not spec.execution:
        raise BadInput(
            str(path), f"the profile has no times at {size}, the cascade's size: measure it with `cascade profile`"
        )
    sized, profile = profile, profile.model_copy(update={"spec": spec})
    try:
        charges = Charges(profile)
    except ValueError as error:
        raise BadInput(str(path), str(error)) from None
    return LoadedProfile(profile.metadata.name, profile, charges, cascade, sized)


def check(profile: ProfileSpec, *, source: str) -> None:
    """Raise BadInput if figures contradict each other; the schema has been checked before."""
    for field, message in contradictions(profile):
        raise BadInput(source, message, field=field)


def _alone(chains: tuple[Chain, ...]) -> dict[str, float]:
    """The normalised quality of each variant alone, from any chain that it is part of."""
    values: dict[str, float] = {}
    for chain in chains:
        for row in chain.rows:
            if row.heavy_load == 0:
                values.setdefault(chain.light, row.value)
            elif row.light_load == 0 or row.escalation == 1:
                values.setdefault(chain.heavy, row.value)
    return values

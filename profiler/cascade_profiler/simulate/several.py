"""The cascades of one file, together on its WorkerPools: what `cascade simulate` does with a file that has any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cascade_api.documents import CascadeFile, load_cascades
from cascade_api.profile import profile_for
from cascade_api.settings import PlannerSettings, from_environment
from cascade_operator.planning.planner import Planner

from ..frontier.inputs import BadInput, text_of
from ..frontier.profiles import Charges, check, variants_of
from .campaign import accelerator_class
from .figures import figures_of, summary
from .production import Simulation
from .routers import Traffic
from .runs import Failure, NoNodes
from .scores import drawn_scores
from .traces import PROMPTS, load_trace
from .turns import Turns

SEEDS_APART = 1000
"""Seeds of a cascade's arrivals are so far from those of the next one."""

Told = Callable[[int, float], None]
"""Called with the progress: seed, and the part that is done (0 to 1)."""


@dataclass(frozen=True)
class SharedRequest:
    """Cascades with the ``traces`` that each gets, by its name, on the WorkerPools of their file."""

    source: str
    file: CascadeFile
    traces: Mapping[str, str]
    seeds: int
    turns: Turns
    failures: tuple[Failure, ...] = ()
    provision_s: Mapping[str, int] = field(default_factory=dict)
    """Seconds that a Node takes to come, by class; the accelerators of other classes exist."""
    no_nodes: tuple[NoNodes, ...] = ()

    @property
    def accelerators(self) -> dict[str, int]:
        """The most accelerators of each class that the pools of the file may have together."""
        found: Counter[str] = Counter()
        for pool in self.file.pools:
            found[pool.spec.accelerator_class] += pool.spec.workers.max
        for cascade in self.file.cascades:
            found.update({each.accelerator_class: each.max for each in cascade.spec.workers if each.pool is None})
        return dict(found)


def file_with_pools(name: str) -> CascadeFile | None:
    """The file of that name if cascades in it use WorkerPools; else None. Raises DocumentError."""
    path = Path(name)
    if not path.exists() or "WorkerPool" not in (text := text_of(path)):
        return None
    file = load_cascades(text, source=name)
    if not any(each.pool is not None for cascade in file.cascades for each in cascade.spec.workers):
        return None
    for profile in file.profiles:
        check(profile.spec, source=name)
    return file


def traces_of(file: CascadeFile, told: Sequence[str]) -> dict[str, str]:
    """The trace of each cascade, by its name, from texts that are ``CASCADE=TRACE``, or ``TRACE`` for all others."""
    names = [cascade.metadata.name for cascade in file.cascades]
    found: dict[str, str] = {}
    for text in told:
        name, equals, trace = text.partition("=")
        if equals and name in names:
            found[name] = trace
        else:
            found = {**dict.fromkeys(names, text), **found}
    missing = [name for name in names if name not in found]
    if missing:
        raise BadInput("--trace", f"{missing[0]} has none: add --trace {missing[0]}=TRACE, or a trace for all cascades")
    return found


def simulate_several(request: SharedRequest, *, told: Told) -> dict[str, dict[str, float]]:
    """The figures of each cascade, by its name; loads and accelerator seconds are those of all together."""
    file = request.file
    accelerators = request.accelerators
    classes = [accelerator_class(name, n, request.provision_s.get(name)) for name, n in accelerators.items()]
    charges = {cascade.ref: Charges(file.profile_of(cascade)) for cascade in file.cascades}
    planner = Planner(from_environment(PlannerSettings), classes=classes)
    runs: dict[str, list[dict[str, float]]] = {cascade.metadata.name: [] for cascade in file.cascades}
    for seed in range(request.seeds):
        simulation = Simulation(
            [_traffic(request, number, seed) for number in range(len(file.cascades))],
            accelerators=accelerators,
            planner=planner,
            seed=seed,
            pools=file.pools,
            turns=request.turns,
            failures=request.failures,
            elastic=[each for each in classes if each.elastic is not None],
            no_nodes=request.no_nodes,
        )
        found = simulation.run(partial(told, seed))
        for cascade, run in zip(file.cascades, found, strict=True):
            runs[cascade.metadata.name].append(figures_of(run, charges[cascade.ref]))
    return {name: summary(figures) for name, figures in runs.items()}


def _traffic(request: SharedRequest, number: int, seed: int) -> Traffic:
    cascade = request.file.cascades[number]
    profile = request.file.profile_of(cascade)
    found = profile_for(cascade.spec, profile.spec)
    drawn = SEEDS_APART * number + seed
    return Traffic(
        cascade,
        profile.model_copy(update={"spec": found}),
        load_trace(request.traces[cascade.metadata.name], seed=drawn),
        drawn_scores(variants_of(found), prompts=PROMPTS, seed=drawn),
    )

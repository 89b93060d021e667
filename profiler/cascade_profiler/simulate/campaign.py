"""Several policies on one trace, with several seeds: the work of `cascade simulate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cascade_api.settings import CPU, AcceleratorClass, Elastic, PlannerSettings
from cascade_operator.planning.planner import Planner

from ..frontier.inputs import BadInput
from ..frontier.profiles import LoadedProfile, variants_of
from ..frontier.reference import HADIS_MODELS
from .baselines.catalogue import PUBLISHED, published_system
from .figures import figures_of, summary
from .production import ProductionSystem
from .runs import Failure, NoNodes, Progress, Run, Scenario
from .scores import Scores, drawn_scores, reference_scores
from .traces import PROMPTS, is_drawn, load_trace
from .turns import Turns

PRODUCT: Final = ("hybrid",)
POLICIES: Final = (*PUBLISHED, *PRODUCT)
"""The policies that can be simulated: the published systems with their quirks, and the product's own."""

Told = Callable[[str, int, float], None]
"""Called with the progress: policy, seed, and the part that is done (0 to 1)."""


@dataclass(frozen=True)
class CampaignRequest:
    """What to simulate."""

    profile: LoadedProfile
    trace: str
    policies: tuple[str, ...]
    workers: Mapping[str, int]
    objective_s: float
    seeds: int
    switch_s: float | None = None
    scorer: str | None = None
    failures: tuple[Failure, ...] = ()
    memory_mib: int = 0
    """Of every accelerator; 0: as much as is needed."""
    no_worse_than: str | None = None
    """The quality floor of the product's policy, in units of the metric; None: that of the profile's file."""
    turns: Turns | None = None
    """How workers that host all variants share their time; None: they host one each, as the published systems' do."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """The parts of the requests by the size that they name; empty: none names one."""
    blind: bool = False
    """Whether only workers know the size of an image, see `Scenario`."""
    provision_s: Mapping[str, int] = field(default_factory=dict)
    """Seconds that a Node takes to come, by class; the accelerators of other classes exist."""
    no_nodes: tuple[NoNodes, ...] = ()

    @property
    def classes(self) -> list[AcceleratorClass]:
        """The accelerator classes, as the operator's settings would have them."""
        return [
            accelerator_class(name, count, self.provision_s.get(name), memory_mib=self.memory_mib)
            for name, count in self.workers.items()
        ]


@dataclass(frozen=True)
class PolicyResult:
    """One policy over all seeds; ``first`` is the run of the first seed."""

    name: str
    seeds: int
    figures: dict[str, float]
    first: Run


def accelerator_class(name: str, count: int, provision_s: int | None, *, memory_mib: int = 0) -> AcceleratorClass:
    """A class with ``count`` accelerators, on Nodes that take ``provision_s`` to come (None: they exist)."""
    elastic = None if provision_s is None else Elastic(max=count, provision_seconds=provision_s)
    known = CPU if name == CPU.name else AcceleratorClass(name=name, resource="gpu", memory_mi_b=memory_mib)
    return known.model_copy(update={"elastic": elastic})


def check(request: CampaignRequest) -> None:
    """Raise BadInput if the request cannot be simulated."""
    for policy in request.policies:
        if policy not in POLICIES:
            raise BadInput("--policy", f"{policy!r} is unknown; choose from {', '.join(POLICIES)}")
        if request.provision_s and policy in PUBLISHED:
            raise BadInput("--elastic", f"the published system {policy} has a fixed fleet: leave it out of --policy")
    spec = request.profile.profile.spec
    if request.sizes:
        check_sizes(request)
    classes = {row.accelerator_class for row in spec.execution}
    for name, count in request.workers.items():
        if name not in classes:
            raise BadInput("--workers", f"class {name!r} is not in the profile, which has {', '.join(sorted(classes))}")
        if count < 1:
            raise BadInput("--workers", f"{count} accelerators of {name} can serve nothing: name at least 1")
    quickest = min(row.p50_micros / 1e6 for row in spec.execution if row.accelerator_class in request.workers)
    if quickest > request.objective_s:
        raise BadInput(
            "--objective",
            f"{request.objective_s:g} s is less than any variant takes ({quickest:g} s): times are in the trace's own "
            "seconds; mind the unit",
        )


def check_sizes(request: CampaignRequest) -> None:
    """Raise BadInput unless the profile has times at every size that requests name, and the cascade offers it."""
    known = (request.profile.sized or request.profile.profile).spec.execution
    cascade, measured = request.profile.cascade, {row.size for row in known}
    offered = sorted(measured if cascade is None else measured & set(cascade.spec.sizes))
    for size in request.sizes:
        if size not in offered:
            raise BadInput("--sizes", f"{size} is not offered and measured: choose from {', '.join(offered)}")
    published = [policy for policy in request.policies if policy in PUBLISHED]
    if published:
        raise BadInput("--sizes", f"{published[0]} makes images of one size: simulate it without, or policy hybrid")


def simulate(request: CampaignRequest, *, told: Told) -> list[PolicyResult]:
    """Run every policy with every seed, one after the other."""
    check(request)
    results = []
    planner = planner_for(request)
    for policy in request.policies:
        runs: list[dict[str, float]] = []
        first: Run | None = None
        for seed in range(request.seeds):
            run = run_once(request, policy, seed, progress=partial(told, policy, seed), planner=planner)
            first = first or run
            runs.append(figures_of(run, request.profile.charges))
        if first is not None:
            results.append(PolicyResult(policy, request.seeds, summary(runs), first))
    return results


def run_once(
    request: CampaignRequest, policy: str, seed: int, *, progress: Progress, planner: Planner | None = None
) -> Run:
    """One run; runs with the same ``planner`` prepare their profile only once."""
    scenario = Scenario(
        profile=request.profile,
        trace=load_trace(request.trace, seed=seed if is_drawn(request.trace) else 0),
        scores=_scores(request.profile, seed=seed),
        workers=request.workers,
        objective_s=request.objective_s,
        seed=seed,
        switch_s=_switch_s(request, policy),
        failures=request.failures,
        elastic=tuple(each for each in request.classes if each.elastic is not None),
        no_nodes=request.no_nodes,
        turns=None if policy in PUBLISHED else request.turns,
        no_worse_than=request.no_worse_than,
        sizes=request.sizes,
        blind=request.blind,
    )
    if policy in PUBLISHED:
        return published_system(policy, scenario).run(progress)
    system = ProductionSystem(scenario, policy=policy, planner=planner or planner_for(request), scorer=request.scorer)
    return system.run(progress)


def planner_for(request: CampaignRequest) -> Planner:
    """A planner with the default settings for the classes of a request."""
    return Planner(PlannerSettings(), classes=request.classes)


def _switch_s(request: CampaignRequest, policy: str) -> float | None:
    """Seconds of a switch: those of the request for all policies; without them, none for the published systems."""
    return 0.0 if request.switch_s is None and policy in PUBLISHED else request.switch_s


_reference: list[Scores] = []


def _scores(profile: LoadedProfile, *, seed: int) -> Scores:
    """The scores of the reference prompts if the profile is of their models, else random ones from the seed."""
    variants: Sequence[str] = variants_of(profile.profile.spec)
    if set(variants) <= set(HADIS_MODELS) and profile.name.startswith("hadis-"):
        if not _reference:
            _reference.append(reference_scores())
        return _reference[0]
    return drawn_scores(variants, prompts=PROMPTS, seed=seed)

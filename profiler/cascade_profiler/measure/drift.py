"""Runs `cascade drift`: asks the workers of a running cascade for images, and compares their times with its profile."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import tritonclient.grpc as triton
import typer
from tritonclient.utils import InferenceServerException

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed, read_text
from cascade_api.documents import load_cascades
from cascade_api.local import default_state_dir, read_addresses
from cascade_api.names import GRPC_UNBOUNDED, OUTPUT_BATCH_TIME, PROBE_PROMPT
from cascade_api.plan import Plan, PlanSettings
from cascade_api.profile import ProfileSpec, profile_for
from cascade_operator.store import Observation, Store, pools_of

from .comparing import LEAST_BATCHES, Served, score_findings, time_findings
from .replica import inference

CALL_TIMEOUT_S: Final = 60.0
ASKED: Final = 2 * LEAST_BATCHES
"""Images that a worker is asked for, for each variant that it serves."""


@dataclass(frozen=True)
class WatchedModel:
    """The model of one variant on one worker."""

    variant: str
    accelerator_class: str
    endpoint: str
    model: str
    settings: PlanSettings


def run(*, file: Path, tolerance: float, redis_url: str, as_json: bool, state_dir: Path | None) -> bool:
    """Print all findings; returns whether anything drifted. Raises CommandFailed if nothing can be compared."""
    cascade, profile = _manifest(file)
    seen = asyncio.run(_observe(_redis(redis_url, state_dir), cascade))
    if seen is None or seen.plan is None:
        raise CommandFailed(f"{cascade.ref} is not being served there: start it, or name its Redis with --redis-url")
    served = ask(watched_models(seen.plan))
    findings = [*time_findings(served, profile, tolerance=tolerance), *score_findings(seen.reports, profile)]
    if not findings:
        raise CommandFailed(f"{cascade.ref} has no ready replica to compare: look at `cascade status`")
    drifted = any(finding.drifted for finding in findings)
    if as_json:
        typer.echo(json.dumps({"drifted": drifted, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        typer.echo("\n".join(finding.line() for finding in findings))
        typer.echo("drifted: measure again with `cascade profile --fresh`" if drifted else "the profile holds")
    return drifted


def ask(places: Sequence[WatchedModel]) -> list[Served]:
    """The batches in which the models at ``places`` made the images that were asked for, by the times they report."""
    ran: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for place in places:
        try:
            with triton.InferenceServerClient(place.endpoint, channel_args=GRPC_UNBOUNDED) as client:
                for seed in range(ASKED):
                    request = inference([PROBE_PROMPT], [seed], place.settings.parameters, batch_time=True)
                    answer = client.infer(place.model, **request, client_timeout=CALL_TIMEOUT_S)
                    ((seconds, images),) = answer.as_numpy(OUTPUT_BATCH_TIME).tolist()
                    ran[place.variant, place.accelerator_class, int(images)].append(seconds)
        except InferenceServerException as error:
            raise CommandFailed(f"a replica does not answer: {error.message()}") from None
    return [Served(*what, len(taken), sum(taken) / len(taken)) for what, taken in sorted(ran.items())]


def watched_models(plan: Plan) -> list[WatchedModel]:
    """The models of the plan's workers, once for each variant that they serve."""
    return [
        WatchedModel(pool.variant, pool.accelerator_class, worker.endpoint, variant.model, variant.settings)
        for pool in plan.pools
        for variant in [plan.variants[pool.variant]]
        for worker in pool.ready
    ]


async def _observe(url: str, cascade: DiffusionCascade) -> Observation | None:
    async with Store(url) as store:
        return await store.observe(cascade.ref, pools_of(cascade))


def _redis(url: str, state_dir: Path | None) -> str:
    if url:
        return url
    addresses = read_addresses(state_dir or default_state_dir())
    if addresses is None:
        raise CommandFailed("no local run: start one with `cascade up`, or name a Redis with --redis-url", code=2)
    return addresses.redis


def _manifest(file: Path) -> tuple[DiffusionCascade, ProfileSpec]:
    found = load_cascades(read_text(file), source=str(file))
    if len(found.cascades) != 1:
        raise CommandFailed(f"{file}: has {len(found.cascades)} DiffusionCascades: compare one at a time", code=2)
    cascade = found.cascades[0]
    return cascade, profile_for(cascade.spec, found.profile_of(cascade).spec)

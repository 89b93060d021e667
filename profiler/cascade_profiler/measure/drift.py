"""Runs `cascade drift`: watches the replicas of a running cascade and compares them with its profile."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import tritonclient.grpc as triton
import typer
from tritonclient.utils import InferenceServerException

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed, read_text
from cascade_api.documents import load_cascades
from cascade_api.local import default_state_dir, read_addresses
from cascade_api.names import GRPC_UNBOUNDED, PROBE_PROMPT
from cascade_api.plan import Plan, PlanSettings
from cascade_api.profile import ProfileSpec, profile_for
from cascade_operator.store import Observation, Store, pools_of

from .comparing import LEAST_BATCHES, Served, score_findings, time_findings
from .replica import inference

CALL_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class WatchedModel:
    """The model of one variant on one worker."""

    variant: str
    accelerator_class: str
    endpoint: str
    model: str
    settings: PlanSettings


Counts = dict[int, tuple[int, int]]
"""For each batch size: the number of batches, and the nanoseconds that they took."""


def run(*, file: Path, seconds: float, tolerance: float, redis_url: str, as_json: bool, state_dir: Path | None) -> bool:
    """Print all findings; returns whether anything drifted. Raises CommandFailed if nothing can be compared."""
    cascade, profile = _manifest(file)
    seen = asyncio.run(_observe(_redis(redis_url, state_dir), cascade))
    if seen is None or seen.plan is None:
        raise CommandFailed(f"{cascade.ref} is not being served there: start it, or name its Redis with --redis-url")
    served = watch(watched_models(seen.plan), seconds)
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


def watch(places: Sequence[WatchedModel], seconds: float) -> list[Served]:
    """The batches that models run within ``seconds``; idle models are then sent requests for images."""
    clients = {place: triton.InferenceServerClient(place.endpoint, channel_args=GRPC_UNBOUNDED) for place in places}
    try:
        before = {place: _counts(client, place.model) for place, client in clients.items()}
        time.sleep(seconds)
        ran: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)
        for place, client in clients.items():
            found = _since(before[place], _counts(client, place.model))
            if sum(count for count, _ in found.values()) < LEAST_BATCHES:
                for seed in range(2 * LEAST_BATCHES):
                    request = inference([PROBE_PROMPT], [seed], place.settings.parameters)
                    client.infer(place.model, **request, client_timeout=CALL_TIMEOUT_S)
                found = _since(before[place], _counts(client, place.model))
            for batch, totals in found.items():
                ran[place.variant, place.accelerator_class, batch].append(totals)
    except InferenceServerException as error:
        raise CommandFailed(f"a replica does not answer: {error.message()}") from None
    finally:
        for client in clients.values():
            client.close()
    return [_served(*what, totals) for what, totals in sorted(ran.items())]


def _served(variant: str, accelerator_class: str, batch: int, totals: Sequence[tuple[int, int]]) -> Served:
    count, taken_ns = map(sum, zip(*totals, strict=True))
    return Served(variant, accelerator_class, batch, count, taken_ns / count / 1e9)


def _counts(client: Any, model: str) -> Counts:
    """The server's counts since the model was loaded; the time of a batch is that in the model's process."""
    stats = client.get_inference_statistics(model, client_timeout=CALL_TIMEOUT_S).model_stats[0]
    found = {}
    for entry in stats.batch_stats:
        parts = (entry.compute_input, entry.compute_infer, entry.compute_output)
        found[entry.batch_size] = (entry.compute_infer.count, sum(part.ns for part in parts))
    return found


def _since(before: Counts, now: Counts) -> Counts:
    found = {}
    for batch, (count, taken) in now.items():
        earlier, spent = before.get(batch, (0, 0))
        if count > earlier:
            found[batch] = (count - earlier, taken - spent)
    return found


def watched_models(plan: Plan) -> list[WatchedModel]:
    """The models of the plan's workers. Models that serve several variants are left out, since a server counts these
    together.
    """
    places = [
        WatchedModel(pool.variant, pool.accelerator_class, worker.endpoint, variant.model, variant.settings)
        for pool in plan.pools
        for variant in [plan.variants[pool.variant]]
        for worker in pool.ready
    ]
    sharing = Counter((place.endpoint, place.model) for place in places)
    return [place for place in places if sharing[place.endpoint, place.model] == 1]


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

"""Asynchronous jobs over HTTP: clients submit a job, ask for its state, wait for its end, or cancel it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from cascade_api.names import CascadeRef
from cascade_api.reasons import Refusal

from ..jobs.records import JobRecord, JobUnreadable, cascade_of, digest_of, job_id, write_body
from ..jobs.runner import JobRunner
from ..jobs.store import JobStore, JobStoreAway, Submitted
from ..requests import MadeImage, RequestRefused, invalid, new_id, unique_of
from ..service import ImageService
from . import openai
from .http_requests import (
    IDEMPOTENCY_KEY,
    JSON,
    REQUEST_ID,
    answer_headers,
    request_id_of,
    tenant_of,
    wanted_images,
)
from .openai_bodies import JobStatus
from .parts import Part, length, pieces

LONGEST_WAIT_S: Final = 60.0
FULL: Final = {
    Submitted.FULL: "the limit of unfinished jobs is reached; try again later",
    Submitted.TENANT_FULL: "your limit of unfinished jobs is reached; try again later",
}
OBJECT: Final = "object"
"""The field of a stored outcome that has the name of the image in the bucket."""
_POLL_S: Final = 0.1
_T = TypeVar("_T")


@dataclass(frozen=True)
class Jobs:
    """The store that keeps the jobs, and the runner that executes them."""

    store: JobStore
    runner: JobRunner


def write_answer(answer: MadeImage) -> Mapping[str, Any]:
    """How the image of an answer was made, in the form in which jobs store it beside the image, or its name."""
    name = {OBJECT: answer.stored.name} if answer.stored is not None else {}
    return {**openai.how_made(answer).model_dump(mode="json"), **name}


def explain_refusal(refused: RequestRefused) -> Mapping[str, Any]:
    """A refusal in the form in which jobs store it."""
    return openai.refusal_body(refused)[1]


def make_job_routes(service: ImageService, jobs: Jobs) -> list[BaseRoute]:
    """The routes below ``/v1/jobs``."""

    async def submit(request: Request) -> Response:
        wanted = await wanted_images(service, request, stored=True)
        if len(wanted.requests) > 1 or wanted.stream:
            raise invalid("n" if not wanted.stream else "stream", "a job makes one image, which is fetched later")
        image = wanted.requests[0]
        ref = service.plans.find(image.model).ref
        key, tenant = image.idempotency_key, image.receipt.tenant
        await service.tenants.take_images(tenant)
        body, within_s = write_body(image), image.within_s or service.settings.job_deadline_s
        job = job_id(ref, unique_of(key, tenant=tenant) if key else new_id())
        submitted, place_s = await _from_store(
            jobs.store.submit(
                ref,
                job,
                digest=digest_of(body, within_s=within_s),
                body=body,
                tenant=tenant,
                within_s=within_s,
            )
        )
        if submitted is Submitted.DIFFERENT:
            raise RequestRefused(
                Refusal.DUPLICATE,
                f"{IDEMPOTENCY_KEY}: was already used for a different request; choose a new one",
                field=IDEMPOTENCY_KEY,
            )
        if submitted in FULL:
            raise RequestRefused(Refusal.QUEUE_FULL, FULL[submitted], retry_after_s=max(1.0, place_s))
        if submitted is Submitted.NO_MEMORY:
            raise RequestRefused(Refusal.STORE_FULL, "Redis has no memory left for another job; try again later")
        jobs.runner.wake()
        return await _answer(await _find(ref, job, tenant), 202, answer_headers(request, wanted))

    async def ask(request: Request) -> Response:
        ref, job, tenant = _named(request)
        wait_s = _wait(request.query_params.get("wait", "0"))
        found = await _find(ref, job, tenant)
        until = asyncio.get_running_loop().time() + wait_s
        while not found.state.final and asyncio.get_running_loop().time() < until and not service.draining:
            await asyncio.sleep(_POLL_S)
            found = await _find(ref, job, tenant)
        return await _answer(found, 200, {REQUEST_ID: request_id_of(request)})

    async def cancel(request: Request) -> Response:
        ref, job, tenant = _named(request)
        await _find(ref, job, tenant)
        await _from_store(jobs.store.cancel(ref, job))
        return await _answer(await _find(ref, job, tenant), 200, {REQUEST_ID: request_id_of(request)})

    async def one(request: Request) -> Response:
        return await (cancel if request.method == "DELETE" else ask)(request)

    def _named(request: Request) -> tuple[CascadeRef, str, str]:
        tenant, job = tenant_of(service, request), request.path_params["job"]
        try:
            return cascade_of(job), job, tenant
        except ValueError:
            raise _unknown(job) from None

    async def _find(ref: CascadeRef, job: str, tenant: str) -> JobRecord:
        try:
            found = await _from_store(jobs.store.find(ref, job))
        except JobUnreadable:
            raise _unknown(job) from None
        if found is None or found.tenant != tenant:
            raise _unknown(job)
        if found.removed:
            raise RequestRefused(
                Refusal.RESULT_REMOVED,
                f"job: {job[:80]!r} ended as {found.state.value}, but its result was removed to make room for "
                "newer ones; submit it again, and fetch results sooner",
                field="job",
            )
        return found

    async def _answer(found: JobRecord, status: int, headers: Mapping[str, str]) -> Response:
        """The job; a link to its image is signed anew for each answer."""
        name = found.outcome.get(OBJECT)
        return _job_response(found, status, headers, None if name is None else await service.bucket.link(str(name)))

    return [
        Route("/v1/jobs", submit, methods=["POST"]),
        Route("/v1/jobs/{job}", one, methods=["GET", "DELETE"]),
    ]


async def _from_store(reply: Awaitable[_T]) -> _T:
    """The store's reply; raises RequestRefused while Redis is away."""
    try:
        return await reply
    except JobStoreAway:
        raise RequestRefused(
            Refusal.STORE_AWAY, "jobs are kept in Redis, which cannot be reached now; try again", retry_after_s=1.0
        ) from None


def _unknown(job: str) -> RequestRefused:
    return RequestRefused(
        Refusal.UNKNOWN_JOB,
        f"job: {job[:80]!r} is not known: it never existed, its result has expired, or Redis lost its data",
        field="job",
    )


def _wait(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT_S:
        raise invalid("wait", f"{text[:20]!r} is not between 0 and {LONGEST_WAIT_S:g} seconds")
    return seconds


def _job_response(job: JobRecord, status: int, headers: Mapping[str, str], link: str | None) -> Response:
    described = JobStatus(
        id=job.id,
        status=job.state,
        created_at=job.created_ms / 1000,
        deadline_at=job.deadline_ms / 1000,
        finished_at=job.finished_ms / 1000 if job.finished_ms else None,
    )
    content = {**described.model_dump(mode="json"), "error": job.outcome.get("error")}
    result: list[Part] = [b"null"]
    if link is not None:
        result = [openai.linked({name: value for name, value in job.outcome.items() if name != OBJECT}, link)]
    elif job.outcome and "error" not in job.outcome:
        result = openai.with_image(job.outcome, memoryview(job.image))
    parts = [json.dumps(content).encode()[:-1] + b', "result": ', *result, b"}"]
    more = {"location": f"/v1/jobs/{job.id}", "content-length": str(length(parts))}
    return StreamingResponse(pieces(parts), status, headers={**headers, **more}, media_type=JSON)

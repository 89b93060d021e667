"""What is stored about a job, and in which form; pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Final

from cascade_api.names import CascadeRef
from cascade_api.reasons import Refusal

from ..cascade.choosing import Wish
from ..pools.clients import ImageForm, Prompt
from ..requests import GenerateRequest, Receipt

TRY_AGAIN: Final = frozenset(
    {
        Refusal.QUEUE_FULL,
        Refusal.NO_PLAN,
        Refusal.NO_REPLICA,
        Refusal.MODEL_FAILED,
        Refusal.SHUTTING_DOWN,
        Refusal.MODERATION_AWAY,
        Refusal.BUCKET_AWAY,
    }
)
"""Refusals that end an attempt but not the job."""


class JobState(str, Enum):
    """The states of a job: queued ⇄ running → succeeded, failed or cancelled, which are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


class JobUnreadable(ValueError):
    """The data under a job's key in Redis is not a job."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is read back. Times are Unix milliseconds by Redis's clock; 0 if there is none yet."""

    id: str
    state: JobState
    tenant: str
    created_ms: int
    deadline_ms: int
    finished_ms: int = 0
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """How the image was made, or why there is none."""
    image: bytes = b""
    """The image as it was encoded; empty if there is none, or it is in the bucket."""
    removed: bool = False
    """Whether the result was removed to make room for newer ones."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this router works on; ``token`` distinguishes this attempt from all others."""

    id: str
    token: int
    body: bytes
    left_s: float


def job_id(ref: CascadeRef, unique: str) -> str:
    """The id of a job, from which every router finds its cascade."""
    return f"{ref.namespace}.{ref.name}.{unique}"


def cascade_of(text: str) -> CascadeRef:
    """The cascade of a job id; raises ValueError if the text is not a job id."""
    namespace, _, rest = text.partition(".")
    name, _, unique = rest.partition(".")
    if not (namespace and name and unique.isalnum()) or len(text) > 200:
        raise ValueError("not a job id")
    return CascadeRef(namespace, name)


def write_body(request: GenerateRequest) -> bytes:
    """The request of a job as bytes; equal requests give equal bytes."""
    prompt, form = asdict(request.prompt), asdict(request.form)
    fields = {
        "prompt": prompt,
        "form": form,
        "band": request.band,
        "wish": asdict(request.wish),
        "size": request.size,
        "end_user": request.end_user,
        "stored": request.stored,
    }
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()


def digest_of(body: bytes, *, within_s: float) -> str:
    """A digest that shows whether an idempotency key is used again with the same request."""
    return hashlib.sha256(body + repr(within_s).encode()).hexdigest()


def read_body(claim: Claim, *, model: str, receipt: Receipt) -> GenerateRequest:
    """The request of a job, which has ``claim.left_s`` from ``receipt``. Raises JobUnreadable."""
    try:
        fields = json.loads(claim.body)
        return GenerateRequest(
            id=claim.id,
            model=model,
            prompt=Prompt(**fields["prompt"]),
            receipt=receipt,
            form=ImageForm(**fields["form"]),
            within_s=claim.left_s,
            band=int(fields["band"]),
            wish=Wish(**fields["wish"]),
            size=str(fields["size"]),
            end_user=str(fields["end_user"]),
            stored=bool(fields["stored"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise JobUnreadable(str(error)) from None


def read_job(identifier: str, fields: Mapping[bytes, bytes]) -> JobRecord:
    """A job from its hash. Raises JobUnreadable."""

    def whole(name: bytes) -> int:
        return int(fields.get(name, b"0"))

    try:
        return JobRecord(
            id=identifier,
            state=JobState(fields[b"state"].decode()),
            tenant=fields[b"tenant"].decode(),
            created_ms=whole(b"created"),
            deadline_ms=whole(b"deadline"),
            finished_ms=whole(b"finished"),
            outcome=dict(json.loads(fields.get(b"result") or b"{}")),
            image=fields.get(b"image", b""),
            removed=b"removed" in fields,
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise JobUnreadable(f"job {identifier}: {error}") from None


def in_turn(jobs: Sequence[str], tenants: Mapping[str, str]) -> list[str]:
    """The same jobs in another order: the first of each tenant, then the second of each, and so on."""
    turns: Counter[str] = Counter()
    order: list[tuple[int, int]] = []
    for index, job in enumerate(jobs):
        tenant = tenants.get(job, "")
        order.append((turns[tenant], index))
        turns[tenant] += 1
    return [jobs[index] for _, index in sorted(order)]


def result_of(fields: Mapping[str, Any]) -> bytes:
    """A result in the form in which it is stored."""
    return json.dumps(fields).encode()

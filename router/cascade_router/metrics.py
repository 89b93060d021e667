"""All metrics that the router exports, with their labels and their meaning."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from cascade_api.reasons import Refusal

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY: Final = CollectorRegistry()
_Metric = TypeVar("_Metric", Counter, Histogram)

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
_TENTHS: Final = tuple(tenth / 10 for tenth in range(1, 11))

REQUESTS = Counter(
    "cascade_requests", "Valid requests received, before admission.", ["cascade", "protocol"], registry=REGISTRY
)
ANSWERS = Counter(
    "cascade_answers", "Images answered, by how they were made.", ["cascade", "route", "variant"], registry=REGISTRY
)
REFUSALS = Counter(
    "cascade_refusals",
    "Requests refused, by reason (`none` for an unknown cascade).",
    ["cascade", "reason"],
    registry=REGISTRY,
)
VIOLATIONS = Counter(
    "cascade_violations",
    "Answers later than their deadline, and refusals for which the service is responsible.",
    ["cascade"],
    registry=REGISTRY,
)
LATENCY = Histogram(
    "cascade_latency_seconds",
    "From receipt until the answer was sent.",
    ["cascade", "route"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
STAGE_WAIT = Histogram(
    "cascade_stage_wait_seconds", "Waiting for a replica.", ["cascade", "stage"], buckets=_SECONDS, registry=REGISTRY
)
STAGE_SERVICE = Histogram(
    "cascade_stage_service_seconds",
    "From sending a request to a replica until its image came.",
    ["cascade", "stage", "variant"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
ACCELERATOR_SECONDS = Counter(
    "cascade_accelerator_seconds",
    "The workers' time that images took, light ones that were made again included, as the workers report it; the"
    " tenant is empty for jobs, and if everybody may ask; the tier is `auto` if the plan decides.",
    ["cascade", "tenant", "tier", "variant"],
    registry=REGISTRY,
)
MODERATIONS = Counter(
    "cascade_moderations",
    "Answers of the moderation endpoint about each `prompt` and `image`: `allowed`, `refused`, or `failed` for none.",
    ["what", "outcome"],
    registry=REGISTRY,
)
BUCKET = Counter(
    "cascade_bucket",
    "What became of images that were to be put into the bucket (`store`) and of links to them (`sign`): `done`, or"
    " `failed`.",
    ["what", "outcome"],
    registry=REGISTRY,
)
CONFIDENCE = Histogram(
    "cascade_confidence", "Confidence of light images.", ["cascade", "variant"], buckets=_TENTHS, registry=REGISTRY
)
HARDNESS = Histogram(
    "cascade_hardness",
    "Hardness of prompts; the unit is the scorer's own.",
    ["cascade"],
    buckets=(0, 0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10),
    registry=REGISTRY,
)
RETRIES = Counter(
    "cascade_retries", "Requests sent to another replica after one failed.", ["cascade", "stage"], registry=REGISTRY
)
REPLICA_HEALTHY = Gauge(
    "cascade_replica_healthy",
    "1 while a replica is trusted, 0 while it is ejected.",
    ["cascade", "replica"],
    registry=REGISTRY,
)
PLANNED_SHARE = Gauge(
    "cascade_planned_share", "Share of all prompts by route, as planned.", ["cascade", "route"], registry=REGISTRY
)
PLAN_GENERATION = Gauge(
    "cascade_plan_generation", "Generation of the plan that the router follows.", ["cascade"], registry=REGISTRY
)
QUEUE_WAITING = Gauge(
    "cascade_queue_waiting", "Entries waiting for a pool, over all routers.", ["cascade", "pool"], registry=REGISTRY
)
QUEUE_IN_FLIGHT = Gauge(
    "cascade_queue_in_flight", "Requests in flight on a pool, over all routers.", ["cascade", "pool"], registry=REGISTRY
)
STORE_AWAY = Gauge(
    "cascade_store_away", "1 while Redis cannot be reached and the router goes on by itself.", [], registry=REGISTRY
)
BAD_DATA = Counter(
    "cascade_bad_data",
    "How often data under a key of Redis could not be used, by cascade (`-` for none) and kind of key.",
    ["cascade", "key"],
    registry=REGISTRY,
)
IN_HAND = Gauge("cascade_requests_in_hand", "Requests received and not yet answered or refused.", [], registry=REGISTRY)
IMAGE_BYTES = Gauge("cascade_image_bytes", "Bytes reserved for the images of requests in hand.", [], registry=REGISTRY)


@lru_cache(maxsize=4096)
def of(metric: _Metric, *labels: str) -> _Metric:
    """A counter or histogram with its labels. They are cached since, unlike gauges, they are never dropped."""
    return metric.labels(*labels)


TROUBLES: Final = (
    Refusal.QUEUE_FULL,
    Refusal.DEADLINE_UNREACHABLE,
    Refusal.DEADLINE_EXCEEDED,
    Refusal.NO_REPLICA,
    Refusal.NO_PLAN,
    Refusal.MODEL_FAILED,
)
"""Refusals for lack of time or of healthy replicas, which somebody should hear of."""


def begin(cascade: str) -> None:
    """Count violations, retries and troubles of a cascade from zero on.

    Prometheus sees no increase in a series that begins with its first count: without this, the first refusals between
    two scrapes would raise no alert, however many they are.
    """
    of(VIOLATIONS, cascade)
    for stage in ("light", "heavy"):
        of(RETRIES, cascade, stage)
    for reason in TROUBLES:
        of(REFUSALS, cascade, str(reason))


def forget(cascade: str) -> None:
    """Drop the gauges of a deleted cascade; counters stay, as Prometheus expects."""
    for gauge in (REPLICA_HEALTHY, PLANNED_SHARE, PLAN_GENERATION, QUEUE_WAITING, QUEUE_IN_FLIGHT):
        gauge.remove_by_labels({"cascade": cascade})

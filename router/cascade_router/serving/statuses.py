"""The status code of each refusal, in gRPC and in HTTP."""

from __future__ import annotations

from typing import Final

import grpc

from cascade_api.reasons import Refusal

GRPC: Final[dict[Refusal, grpc.StatusCode]] = {
    Refusal.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Refusal.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.DEADLINE_UNREACHABLE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refusal.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refusal.CANCELLED: grpc.StatusCode.CANCELLED,
    Refusal.NO_PLAN: grpc.StatusCode.UNAVAILABLE,
    Refusal.NO_REPLICA: grpc.StatusCode.UNAVAILABLE,
    Refusal.MODEL_FAILED: grpc.StatusCode.UNAVAILABLE,
    Refusal.DUPLICATE: grpc.StatusCode.ALREADY_EXISTS,
    Refusal.UNKNOWN_JOB: grpc.StatusCode.NOT_FOUND,
    Refusal.RESULT_REMOVED: grpc.StatusCode.NOT_FOUND,
    Refusal.STORE_AWAY: grpc.StatusCode.UNAVAILABLE,
    Refusal.STORE_FULL: grpc.StatusCode.UNAVAILABLE,
    Refusal.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Refusal.NOT_ALLOWED: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.MODERATION_AWAY: grpc.StatusCode.UNAVAILABLE,
    Refusal.BUCKET_AWAY: grpc.StatusCode.UNAVAILABLE,
}

HTTP: Final[dict[Refusal, int]] = {
    Refusal.INVALID: 400,
    Refusal.UNAUTHENTICATED: 401,
    Refusal.UNKNOWN_MODEL: 404,
    Refusal.RATE_LIMITED: 429,
    Refusal.QUEUE_FULL: 429,
    Refusal.DEADLINE_UNREACHABLE: 504,
    Refusal.DEADLINE_EXCEEDED: 504,
    Refusal.CANCELLED: 499,
    Refusal.NO_PLAN: 503,
    Refusal.NO_REPLICA: 503,
    Refusal.MODEL_FAILED: 503,
    Refusal.DUPLICATE: 409,
    Refusal.UNKNOWN_JOB: 404,
    Refusal.RESULT_REMOVED: 410,
    Refusal.STORE_AWAY: 503,
    Refusal.STORE_FULL: 503,
    Refusal.SHUTTING_DOWN: 503,
    Refusal.NOT_ALLOWED: 400,
    Refusal.MODERATION_AWAY: 503,
    Refusal.BUCKET_AWAY: 503,
}

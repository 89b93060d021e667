"""Puts images into a bucket by the S3 protocol, and signs links to them that expire.

An image goes there when it is made, before its request is answered. While the bucket fails, requests that need it are
refused as `BucketAway` before anything is drawn for them, except for one now and then that tries it. Requests that do
not need it are served as ever.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Literal

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store

from cascade_api.failures import CommandFailed
from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from . import metrics
from .requests import GenerateRequest, MadeImage, RequestRefused, Stored, new_id

log = structlog.get_logger(__name__)

AGAIN_S: Final = 5.0
"""After a failure, this long no request that needs the bucket is served; then one tries it."""
TRIES: Final = 3
"""How often the bucket is asked again within its time."""
_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_FAILURES: Final = (BaseError, OSError, TimeoutError)
"""What obstore raises: its own errors, and Python's for what is not there."""


class Bucket:
    """One router's access to the bucket, if the settings name one.

    The credentials are those of the usual environment variables of AWS.

    Args:
        clock: monotonic seconds.

    Raises:
        CommandFailed: the settings or credentials cannot be used.
    """

    def __init__(self, settings: RouterSettings, *, clock: Callable[[], float]) -> None:
        self._name = settings.bucket
        self._prefix = settings.bucket_prefix
        self._link_for = timedelta(seconds=settings.bucket_link_s)
        self._timeout_s = settings.bucket_timeout_s
        self._clock = clock
        self._again_at = 0.0
        """When the bucket may be tried again; 0 while it works."""
        if self._name:
            _check_keys()
            self._store = _open(settings, settings.bucket_endpoint)
            self._signer = _open(settings, settings.bucket_public_endpoint or settings.bucket_endpoint)

    def check(self, requests: Iterable[GenerateRequest]) -> None:
        """Raise RequestRefused if a request needs the bucket, and it failed just now."""
        if not any(request.stored for request in requests):
            return
        if not self._name:
            raise _away("this router has no bucket")
        now = self._clock()
        if now < self._again_at:
            raise _away("the bucket could not be reached just now", again_s=self._again_at - now)
        if self._again_at:
            # This request tries the bucket; until it has, the others are still refused.
            self._again_at = now + self._timeout_s + AGAIN_S

    async def keep(self, request: GenerateRequest, answer: MadeImage, *, deadline: float) -> MadeImage:
        """The answer with its image in the bucket instead, if the request wants that. Raises RequestRefused.

        Args:
            deadline: of the request, by the same clock.
        """
        if not request.stored:
            return answer
        name = f"{self._prefix}{answer.cascade}/{new_id()}.{request.form.encoded}"
        left_s = deadline - self._clock()
        try:
            async with asyncio.timeout(min(left_s, self._timeout_s)):
                await obstore.put_async(
                    self._store,
                    name,
                    answer.image.encoded,
                    attributes={"Content-Type": f"image/{request.form.encoded}"},
                    use_multipart=False,
                )
        except _FAILURES as error:
            if isinstance(error, TimeoutError) and left_s < self._timeout_s:
                raise RequestRefused(
                    Refusal.DEADLINE_EXCEEDED, "the image was made, but could not be stored by the deadline"
                ) from None
            self._again_at = self._clock() + AGAIN_S
            raise self._failed("store", error) from None
        self._again_at = 0.0
        metrics.of(metrics.BUCKET, "store", "done").inc()
        stored = Stored(name, await self.link(name))
        image = replace(answer.image, element=b"", pixels=b"")
        return replace(answer, image=image, stored=stored)

    async def link(self, name: str) -> str:
        """A link to an image in the bucket, which works from now on for as long as the settings say.

        Raises RequestRefused if none can be signed: that needs credentials, which may have to be fetched.
        """
        if not self._name:
            raise _away("this router has no bucket")
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await obstore.sign_async(self._signer, "GET", name, self._link_for)
        except _FAILURES as error:
            raise self._failed("sign", error) from None
        metrics.of(metrics.BUCKET, "sign", "done").inc()
        return link

    def _failed(self, what: Literal["store", "sign"], error: BaseException) -> RequestRefused:
        metrics.of(metrics.BUCKET, what, "failed").inc()
        # The first line has the server's answer; the others are the library's own state.
        problem = str(error).partition("\n")[0][:300] or type(error).__name__
        log.warning("the bucket failed", bucket=self._name, what=what, problem=problem)
        return _away("the bucket could not be reached", again_s=AGAIN_S)


def _away(why: str, *, again_s: float = AGAIN_S) -> RequestRefused:
    message = f"response_format: {why}, so there is no URL for the image; try again later, or ask for b64_json"
    return RequestRefused(Refusal.BUCKET_AWAY, message, field="response_format", retry_after_s=again_s)


def _check_keys() -> None:
    """Half of a pair of keys would be ignored, and credentials looked for elsewhere."""
    given = [name for name in _KEYS if os.environ.get(name)]
    if len(given) == 1:
        (missing,) = set(_KEYS) - set(given)
        raise CommandFailed(f"{missing}: is missing beside {given[0]}; set both, or neither", code=2)


def _open(settings: RouterSettings, endpoint: str) -> Any:
    """The bucket at one of its addresses; nothing is asked yet."""
    limit = timedelta(seconds=settings.bucket_timeout_s)
    given: Any = {"endpoint": endpoint.rstrip("/"), "region": settings.bucket_region}
    return S3Store(
        settings.bucket,
        **{name: value for name, value in given.items() if value},
        client_options={"timeout": limit, "connect_timeout": limit, "allow_http": endpoint.startswith("http:")},
        retry_config={"max_retries": TRIES, "retry_timeout": limit},
    )

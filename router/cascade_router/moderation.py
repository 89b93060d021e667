"""Asks an endpoint whether prompts and images may be shown, in the form of OpenAI's moderations API.

The endpoint gets a prompt before anything is made of it, and each final image before it is sent. What it flags is
refused as `NotAllowed`. If it does not answer in time, or not in this form, the setting says whether requests are
served (`open`) or refused as `ModerationAway` (`closed`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import httpx
import structlog
from pydantic import BaseModel, ValidationError

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from . import metrics
from .requests import GenerateRequest, MadeImage, RequestRefused

log = structlog.get_logger(__name__)

AGAIN_S: Final = 1.0
"""When a request may be sent again whose prompt or image could not be checked."""


COPIES: Final = 3.0
"""The file in base64 (4/3), and the body of the request that contains it (4/3)."""


class _Result(BaseModel):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Reply(BaseModel):
    results: list[_Result]


class Moderator:
    """One router's access to the endpoint; without an endpoint, everything is allowed.

    Args:
        settings: the endpoint, its key, its time, and what it is asked about.
    """

    def __init__(self, settings: RouterSettings) -> None:
        self._url = settings.moderation_url
        self._closed = settings.moderation_failure == "closed"
        self._prompts = bool(self._url) and "prompts" in settings.moderation_of
        self.images = bool(self._url) and "images" in settings.moderation_of
        """Whether final images are checked; previews are then not shown."""
        self._client: httpx.AsyncClient | None = None
        if self._url:
            key = settings.moderation_key
            headers = {"authorization": f"Bearer {key}"} if key else {}
            self._client = httpx.AsyncClient(timeout=settings.moderation_timeout_s, headers=headers)

    @property
    def copies(self) -> float:
        """How many more times the size of an image a router holds while it asks about it."""
        return COPIES if self.images else 0.0

    def prepared(self, request: GenerateRequest) -> GenerateRequest:
        """The request, with a file beside the pixels if the client wants only pixels but the image is checked."""
        if self.images and not request.form.encoded:
            return replace(request, form=replace(request.form, raw=True, encoded="jpeg"))
        return request

    async def check_prompts(self, requests: Iterable[GenerateRequest]) -> None:
        """Raise RequestRefused if the prompt of a request may not be used."""
        if self._prompts:
            for text in dict.fromkeys(request.prompt.text for request in requests):
                await self._ask("prompt", {"type": "text", "text": text})

    async def check_image(self, request: GenerateRequest, answer: MadeImage) -> None:
        """Raise RequestRefused if an image may not be shown."""
        if self.images:
            file = base64.b64encode(answer.image.encoded).decode()
            url = f"data:image/{request.form.encoded};base64,{file}"
            await self._ask("image", {"type": "image_url", "image_url": {"url": url}})

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, what: str, content: dict[str, Any]) -> None:
        if self._client is None:
            return
        try:
            reply = await self._client.post(self._url, json={"input": [content]})
            reply.raise_for_status()
            results = _Reply.model_validate_json(reply.content).results
        except (httpx.HTTPError, ValidationError) as error:
            metrics.of(metrics.MODERATIONS, what, "failed").inc()
            log.warning("moderation failed", what=what, served=not self._closed, problem=type(error).__name__)
            if self._closed:
                raise RequestRefused(
                    Refusal.MODERATION_AWAY,
                    f"the {what} could not be checked; try again later",
                    retry_after_s=AGAIN_S,
                ) from None
            return
        flagged = [result for result in results if result.flagged]
        metrics.of(metrics.MODERATIONS, what, "refused" if flagged else "allowed").inc()
        if flagged:
            names = sorted({name for result in flagged for name, is_so in result.categories.items() if is_so})
            why = f" ({', '.join(names)})" if names else ""
            subject = "it" if what == "prompt" else "the image that was made of it"
            raise RequestRefused(Refusal.NOT_ALLOWED, f"prompt: {subject} is not allowed here{why}", field="prompt")

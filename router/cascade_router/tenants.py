"""Tenants, known by API key or client certificate, each with a rate of images. They come from a file that may change.

Without a file everybody may send requests. With one, unknown callers are refused. The file contains SHA-256 digests of
the keys, so that nobody can use the keys after reading the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog
import yaml
from pydantic import Field, ValidationError, model_validator

from cascade_api.base import NAME_PATTERN, Document, field_error
from cascade_api.reasons import Refusal

from .rates import Bucket, SharedRates
from .requests import RequestRefused, invalid

log = structlog.get_logger(__name__)

RELOAD_S: Final = 1.0
"""Seconds between two looks at the file."""
_BEARER: Final = "bearer "


class TenantsError(Exception):
    """The file of tenants cannot be used; the message names it and the field."""


class Tenant(Document):
    """One tenant of the file; a rate of None is unlimited."""

    name: str = Field(pattern=NAME_PATTERN, max_length=63)
    keys: list[str] = Field(default_factory=list, max_length=16)
    """SHA-256 digests of API keys, in hexadecimal."""
    certificates: list[str] = Field(default_factory=list, max_length=16)
    """Common names or DNS names of client certificates."""
    requests_per_second: float | None = Field(default=None, gt=0)
    burst: float = Field(default=10, ge=1)
    """Images that may be requested at once after a pause."""
    weight: int = Field(default=1, ge=1, le=1000)
    """Its part of the workers' time, beside those of others, when there is more work than workers."""

    @model_validator(mode="after")
    def _keys_are_digests(self) -> Tenant:
        for index, key in enumerate(self.keys):
            if len(key) != 64 or set(key) - set("0123456789abcdef"):
                raise field_error(
                    f"keys[{index}]", "is not a SHA-256 digest in hexadecimal; never write the key itself"
                )
        return self


class TenantsFile(Document):
    """The whole file."""

    tenants: list[Tenant] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _nothing_twice(self) -> TenantsFile:
        for kind in ("name", "keys", "certificates"):
            seen: set[str] = set()
            for index, tenant in enumerate(self.tenants):
                values = [tenant.name] if kind == "name" else getattr(tenant, kind)
                if seen & set(values):
                    raise field_error(f"tenants[{index}].{kind}", "belongs to another tenant already")
                seen.update(values)
        return self


class Tenants:
    """The tenants of a router.

    Args:
        path: the file, or None if everybody may send requests.
        rates: the token buckets from which tenants take their images.
        clock: monotonic seconds.

    Raises:
        TenantsError: the file cannot be used now. Later, a file that cannot be used leaves the last one in force.
    """

    def __init__(self, path: Path | None, *, rates: SharedRates, clock: Callable[[], float]) -> None:
        self._path = path
        self._rates = rates
        self._clock = clock
        self._looked = clock()
        self._version: tuple[int, int] | None = None
        self._by_key: Mapping[str, Tenant] = {}
        self._by_certificate: Mapping[str, Tenant] = {}
        self._buckets: dict[str, Bucket] = {}
        self._weights: Mapping[str, int] = {}
        if path is not None:
            self._version = _version(path)
            self._take(_read(path))

    @property
    def open(self) -> bool:
        """Whether everybody may send requests."""
        return self._path is None

    def identify(self, *, authorization: str | None, certificate_names: Iterable[str] = ()) -> str:
        """The tenant of a call, by its ``authorization`` header or client certificate; "" if everybody is admitted.

        Raises:
            RequestRefused: UNAUTHENTICATED.
        """
        if self._path is None:
            return ""
        self._look(self._path)
        if authorization is not None:
            if not authorization.lower().startswith(_BEARER):
                raise _unauthenticated("send `authorization: Bearer KEY`")
            digest = hashlib.sha256(authorization[len(_BEARER) :].strip().encode()).hexdigest()
            tenant = self._by_key.get(digest)
            if tenant is None:
                raise _unauthenticated("the API key is not known")
            return tenant.name
        for name in certificate_names:
            if name in self._by_certificate:
                return self._by_certificate[name].name
        raise _unauthenticated("send `authorization: Bearer KEY`, or a client certificate that is known")

    def weight_of(self, tenant: str) -> int:
        """The weight of a tenant; 1 if it is not in the file any more."""
        return self._weights.get(tenant, 1)

    async def take_images(self, tenant: str, images: int = 1) -> None:
        """Take the images of one call from a tenant's rate, all or none.

        Raises:
            RequestRefused: RATE_LIMITED, with the seconds until it is possible; INVALID if it never is.
        """
        bucket = self._buckets.get(tenant)
        if bucket is None:
            return
        if images > bucket.burst:
            raise invalid("n", f"tenant {tenant!r} may ask for {int(bucket.burst)} images at once; ask for fewer")
        wait_s = await self._rates.take(tenant, bucket, images)
        if wait_s > 0:
            raise RequestRefused(
                Refusal.RATE_LIMITED,
                f"tenant {tenant!r} asks for more than {bucket.rate_s:g} images a second; ask again later",
                retry_after_s=wait_s,
            )

    def _look(self, path: Path) -> None:
        """Read the file again if it changed."""
        now = self._clock()
        if now - self._looked < RELOAD_S:
            return
        self._looked = now
        try:
            version = _version(path)
            if version == self._version:
                return
            self._version = version
            self._take(_read(path))
        except TenantsError as error:
            log.error("the file of tenants cannot be used; the last tenants stay in force", problem=str(error))
        else:
            log.info("tenants read again", tenants=len(self._buckets))

    def _take(self, content: TenantsFile) -> None:
        self._by_key = {key: tenant for tenant in content.tenants for key in tenant.keys}
        self._by_certificate = {name: tenant for tenant in content.tenants for name in tenant.certificates}
        self._weights = {tenant.name: tenant.weight for tenant in content.tenants}
        buckets: dict[str, Bucket] = {}
        for tenant in content.tenants:
            if tenant.requests_per_second is None:
                continue
            bucket, before = Bucket(tenant.requests_per_second, tenant.burst), self._buckets.get(tenant.name)
            if before is not None:
                bucket.set(before.at, min(before.tokens, bucket.burst))
            buckets[tenant.name] = bucket
        self._buckets = buckets


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise TenantsError(f"{path}: cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_ino


def _read(path: Path) -> TenantsFile:
    try:
        content = yaml.safe_load(path.read_text())
        return TenantsFile.model_validate(content)
    except OSError as error:
        raise TenantsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TenantsError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        # The message does not repeat the input, which may contain a key by mistake.
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(
            map(str, (*problem["loc"], *([problem["ctx"]["field"]] if "field" in problem.get("ctx", {}) else [])))
        )
        raise TenantsError(f"{path}: {place}: {problem['msg']}") from None


def _unauthenticated(message: str) -> RequestRefused:
    return RequestRefused(Refusal.UNAUTHENTICATED, f"authorization: {message}", field="authorization")

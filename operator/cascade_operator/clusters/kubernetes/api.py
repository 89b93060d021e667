"""The Kubernetes API as the operator uses it: a few calls, each with a time limit, run by a limited number of threads.

It uses the dynamic client of the official Kubernetes client, but not its discovery: all paths are defined here.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import structlog
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient

from cascade_api.command import CommandFailed
from cascade_api.names import FIELD_MANAGER, GROUP, VERSION

from .. import ClusterFailed

log = structlog.get_logger(__name__)

WORKERS: Final = 8
PAGE: Final = 500
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
NOT_FOUND, CONFLICT, GONE, TOO_MANY, SERVER_ERROR = 404, 409, 410, 429, 500

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """A kind of object, and its place in the API."""

    prefix: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The path of the collection, or of one object; an empty namespace means all namespaces."""
        parts = [self.prefix]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, name, subresource]
        return "/" + "/".join(part for part in parts if part)


CASCADES: Final = Resource(f"apis/{GROUP}/{VERSION}", "diffusioncascades")
PROFILES: Final = Resource(f"apis/{GROUP}/{VERSION}", "cascadeprofiles")
WORKER_POOLS: Final = Resource(f"apis/{GROUP}/{VERSION}", "workerpools")
DEPLOYMENTS: Final = Resource("apis/apps/v1", "deployments")
CONFIG_MAPS: Final = Resource("api/v1", "configmaps")
SECRETS: Final = Resource("api/v1", "secrets")
PODS: Final = Resource("api/v1", "pods")
NETWORK_POLICIES: Final = Resource("apis/networking.k8s.io/v1", "networkpolicies")
NODES: Final = Resource("api/v1", "nodes", namespaced=False)
EVENTS: Final = Resource("api/v1", "events")
DEFINITIONS: Final = Resource("apis/apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)


class ApiAway(ClusterFailed):
    """The API server cannot be reached, or cannot answer now."""


class ApiRefused(ClusterFailed):
    """The API server refused a request; ``status`` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def connect(*, timeout_s: float, kubeconfig: str | None = None) -> client.ApiClient:
    """A client that uses the pod's service account or, outside of a pod, ``kubeconfig`` (None: that of KUBECONFIG).

    In a pod it calls the API server directly. Elsewhere it uses a proxy if the kubeconfig or the environment
    (HTTPS_PROXY, NO_PROXY) names one, as kubectl does. Raises CommandFailed if there is neither account nor kubeconfig.
    """
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        settings.proxy = None
    except ConfigException:
        try:
            config.load_kube_config(kubeconfig, client_configuration=settings)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise CommandFailed(f"no cluster: {error}: run in a pod, or set KUBECONFIG") from None
    settings.connection_pool_maxsize = WORKERS
    settings.retries = False
    settings.timeout = timeout_s
    return client.ApiClient(settings)


class KubernetesApi:
    """Calls to the API server; they raise ApiAway or ApiRefused.

    ``count`` is called with the method, kind and outcome of each request.
    """

    def __init__(
        self,
        api_client: client.ApiClient,
        *,
        timeout_s: float,
        count: Callable[[str, str, str], None] = lambda method, kind, outcome: None,
    ) -> None:
        self._dynamic: Any = DynamicClient(  # type: ignore[no-untyped-call]
            api_client, discoverer=lambda client, cache: None
        )
        self._timeout_s = timeout_s
        self._count = count
        self._executor = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="kubernetes")
        self.available = True
        """Whether the last call got an answer."""

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._dynamic.client.close()

    async def version(self) -> tuple[int, int]:
        """The version of the API server, as (major, minor)."""
        answer = await self._call("get", "version", "/version")
        digits = "".join(c for c in str(answer.get("minor", "0")) if c.isdecimal())
        return int(answer.get("major") or 0), int(digits or 0)

    async def time_s(self) -> float | None:
        """The API server's time in Unix seconds, to the second; None if its answer has no date."""
        work = functools.partial(self._request, "get", "/version", serialize=False)
        answer = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        date = answer.headers.get("Date")
        return None if date is None else parsedate_to_datetime(date).timestamp()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, or None if it does not exist."""
        try:
            return await self._call("get", resource.plural, resource.path(namespace, name))
        except ApiRefused as refused:
            if refused.status == NOT_FOUND:
                return None
            raise

    async def list(
        self, resource: Resource, namespace: str = "", *, selector: str | None = None, metadata_only: bool = False
    ) -> list[Object]:
        """All objects of a kind, page by page."""
        items: list[Object] = []
        more: str | None = None
        while True:
            answer = await self._call(
                "get",
                resource.plural,
                resource.path(namespace),
                label_selector=selector,
                limit=PAGE,
                _continue=more,
                header_params={"Accept": METADATA_ONLY} if metadata_only else {},
            )
            items += answer.get("items") or []
            more = (answer.get("metadata") or {}).get("continue")
            if not more:
                return items

    async def apply(self, resource: Resource, manifest: Object) -> Object:
        """Apply a whole object on the server side, taking over fields that others manage; returns the new object."""
        meta = manifest["metadata"]
        return await self._call(
            "patch",
            resource.plural,
            resource.path(meta["namespace"], meta["name"]),
            body=manifest,
            content_type="application/apply-patch+yaml",
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )

    async def merge(
        self, resource: Resource, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> Object:
        """Merge a patch into an object; returns the new object."""
        return await self._call(
            "patch",
            resource.plural,
            resource.path(namespace, name, subresource),
            body=patch,
            content_type="application/merge-patch+json",
            field_manager=FIELD_MANAGER,
        )

    async def create(self, resource: Resource, manifest: Object) -> Object:
        """Create an object, and return it."""
        path = resource.path(manifest["metadata"]["namespace"])
        return await self._call("post", resource.plural, path, body=manifest, field_manager=FIELD_MANAGER)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete the object with this ``uid``, if it still exists."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._call("delete", resource.plural, resource.path(namespace, name), body=body)
        except ApiRefused as refused:
            if refused.status not in (NOT_FOUND, CONFLICT):
                raise

    async def allowed(
        self, *, verb: str, group: str, resource: str, namespace: str = "", subresource: str = ""
    ) -> bool:
        """Whether this account has the right to do something (a SelfSubjectAccessReview)."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        if subresource:
            attributes["subresource"] = subresource
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._call(
            "post", "accessreviews", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review
        )
        return bool(answer["status"].get("allowed"))

    async def _call(self, method: str, kind: str, path: str, **options: Any) -> Object:
        work = functools.partial(self._request, method, path, **options)
        try:
            answer: Object = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except (ApiAway, ApiRefused) as error:
            away = isinstance(error, ApiAway)
            if away and self.available:
                log.warning("the api server is away", error=str(error))
            self.available = not away
            self._count(method, kind, "away" if away else str(getattr(error, "status", "")))
            raise
        self.available = True
        self._count(method, kind, "ok")
        return answer

    def _request(self, method: str, path: str, **options: Any) -> Any:
        # The limits for connecting and for answering: a server that accepts and says nothing must not block a thread.
        timeouts = (self._timeout_s, self._timeout_s)
        try:
            return self._dynamic.request(
                method, path, _request_timeout=timeouts, serializer=lambda _, data: data, **options
            )
        except ApiException as error:
            message = _message(error)
            if error.status is None or error.status >= SERVER_ERROR or error.status == TOO_MANY or error.status == 0:
                raise ApiAway(message) from None
            raise ApiRefused(int(error.status), message) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiAway(f"{type(error).__name__}: {error}"[:300]) from None


def _message(error: ApiException) -> str:
    try:
        body: Mapping[str, Any] = json.loads(error.body or "")
        return str(body["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"

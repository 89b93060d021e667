"""The API of a Kubernetes cluster as plain JSON: what tests and the node agent ask and change."""

from __future__ import annotations

import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kubernetes import config as kubernetes_config

from .waiting import wait_for

Object = dict[str, Any]
PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
WATCH_S = 5
"""How long one watch lasts before it is begun again: a thread that was told to end notices by then."""
STORE_FAILED = "rpc error: code ="
"""What an API server says whose own connection to etcd failed, as one may that it opens when a definition changes."""


class ApiError(Exception):
    """The API server refused; ``status`` is the HTTP code, the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """A client of one user on one API server; may be shared between threads.

    Raises ApiError where the server refuses, and httpx.TransportError where it is away.
    """

    def __init__(self, kubeconfig: Path) -> None:
        settings = kubernetes_config.new_client_from_config(str(kubeconfig)).configuration
        trust = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            trust.load_cert_chain(settings.cert_file, settings.key_file)
        token = settings.api_key.get("authorization") or settings.api_key.get("BearerToken")
        headers = {"Authorization": token} if token else {}
        self.server = str(settings.host).rstrip("/")
        self.authority = Path(settings.ssl_ca_cert).read_text()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = httpx.Client(base_url=self.server, verify=trust, headers=headers, timeout=60, limits=limits)

    def get(self, path: str, **query: Any) -> Object:
        """One object, or a list of them; asked again where the server's own store failed it."""
        return wait_for(lambda: self._read(path, query), what=f"the API server to read {path} from its store")

    def find(self, path: str) -> Object | None:
        """One object, or None where there is none of this name."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, **query: Any) -> list[Object]:
        """The members of a list."""
        return list(self.get(path, **query)["items"])

    def text(self, path: str) -> str:
        """What is not JSON, such as the server's metrics."""
        return _checked(self._http.get(path)).text

    def create(self, path: str, body: Object, **query: Any) -> Object:
        return self._ask("POST", path, query, body)

    def replace(self, path: str, body: Object, **query: Any) -> Object:
        return self._ask("PUT", path, query, body)

    def patch(self, path: str, body: Any, kind: str = "merge", **query: Any) -> Object:
        """``kind`` is one of PATCHES."""
        return self._ask("PATCH", path, query, body, PATCHES[kind])

    def delete(self, path: str, *, grace_s: int | None = None, uid: str | None = None) -> None:
        """Delete an object, if it is there; with ``uid``, only this one and not its successor of the same name."""
        body: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._ask("DELETE", path, {}, body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def watch(self, path: str, resource_version: str, **query: Any) -> Iterator[tuple[str, Object]]:
        """Changes since a version, for WATCH_S seconds. Raises ApiError 410 where the server no longer knows them."""
        query |= {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": WATCH_S}
        with self._http.stream("GET", path, params=query) as answer:
            if answer.is_error:
                answer.read()
            _checked(answer)
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                yield event["type"], event["object"]

    def close(self) -> None:
        self._http.close()

    def _read(self, path: str, query: Mapping[str, Any]) -> Object | None:
        """None where the server's own store failed it."""
        try:
            return self._ask("GET", path, query)
        except ApiError as error:
            if STORE_FAILED not in str(error):
                raise
            return None

    def _ask(self, method: str, path: str, query: Mapping[str, Any], body: Any = None, kind: str = "") -> Object:
        headers = {"Content-Type": kind or "application/json"}
        content = None if body is None else json.dumps(body)
        answer = _checked(self._http.request(method, path, params=query, content=content, headers=headers))
        return dict(answer.json())


def _checked(answer: httpx.Response) -> httpx.Response:
    if not answer.is_error:
        return answer
    try:
        message = str(answer.json().get("message"))
    except ValueError:
        message = answer.text
    raise ApiError(answer.status_code, message)


class Follower:
    """A thread that keeps up with the objects of a path: each list, then each change, until it is stopped.

    An API server that goes away is waited for; what it has forgotten meanwhile shows in the next list.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        listed: Callable[[list[Object]], None],
        changed: Callable[[str, Object], None],
        **query: Any,
    ) -> None:
        self._api = api
        self._path = path
        self._listed = listed
        self._changed = changed
        self._query = query
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {path}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Within WATCH_S seconds."""
        self._stop.set()
        self._thread.join(WATCH_S * 3)

    def _run(self) -> None:
        version = ""
        while not self._stop.is_set():
            try:
                if not version:
                    listing = self._api.get(self._path, **self._query)
                    self._listed(listing["items"])
                    version = listing["metadata"]["resourceVersion"]
                for kind, item in self._api.watch(self._path, version, **self._query):
                    version = item["metadata"]["resourceVersion"]
                    self._changed(kind, item)
            except httpx.TransportError:
                self._stop.wait(0.2)
            except ApiError:
                version = ""
                self._stop.wait(0.2)


@dataclass(frozen=True)
class Change:
    """One step of the cluster's history: ``kind`` is ADDED, MODIFIED or DELETED."""

    kind: str
    object: Object


class History:
    """Everything that happened to the objects of a path, from the API server's watch."""

    def __init__(self, api: Api, path: str) -> None:
        self._api = api
        self._path = path
        self._known: dict[str, str] = {}
        self.changes: list[Change] = []
        self.lists = 0
        self._follower = Follower(api, path, listed=self._listed, changed=self._changed)

    @contextmanager
    def recorded(self) -> Iterator[History]:
        """Record inside the block; at its end the record is complete up to then, or AssertionError."""
        self._follower.start()
        try:
            wait_for(lambda: self.lists, what=f"a first list of {self._path}")
            yield self
            wait_for(self._complete, what=f"the history of {self._path} to catch up")
            assert self.lists == 1, "the watch was broken off: what happened meanwhile is not known"
        finally:
            self._follower.stop()

    def most_in_use(self, namespace: str, *, resource: str) -> Counter[str]:
        """Of the pods: the most of them in a namespace that held or asked for a resource at one instant.

        By the cascade that they belong to, and ``all`` for the namespace.
        """
        held: dict[str, str] = {}
        peaks: Counter[str] = Counter()
        for change in self.changes:
            pod = change.object
            metadata = pod["metadata"]
            if metadata["namespace"] != namespace:
                continue
            asks = resource in (pod["spec"]["containers"][0].get("resources") or {}).get("requests", {})
            over = change.kind == "DELETED" or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            held.pop(metadata["uid"], None)
            if asks and not over:
                held[metadata["uid"]] = metadata["labels"]["diffusioncascade.io/cascade"]
            now = Counter(held.values())
            now["all"] = now.total()
            peaks |= now
        return peaks

    def _complete(self) -> bool:
        there = {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in self._api.items(self._path)}
        return there == self._known

    def _listed(self, items: list[Object]) -> None:
        self.lists += 1
        for item in items:
            self._changed("ADDED", item)

    def _changed(self, kind: str, item: Object) -> None:
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            self._known.pop(uid, None)
        else:
            self._known[uid] = item["metadata"]["resourceVersion"]
        self.changes.append(Change(kind, item))

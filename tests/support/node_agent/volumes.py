"""A pod's volumes as folders of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..kube_api import Api
from .environment import Fetch, Missing, Object, data_of, expand, field_of


def materialise(pod: Object, directory: Path, *, api: Api, fetch: Fetch) -> dict[str, Path]:
    """Folders by volume name, with what belongs in them. Raises Missing."""
    folders = {}
    for volume in pod["spec"].get("volumes") or ():
        name = volume["name"]
        (kind,) = set(volume) - {"name"}
        folder = directory / name
        if kind == "persistentVolumeClaim":
            folder = _claimed(pod, volume[kind]["claimName"], api)
        if kind == "hostPath":
            folder = Path(volume[kind]["path"])
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in _files(pod, kind, volume[kind], api=api, fetch=fetch).items():
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        folders[name] = folder
    return folders


def mounts_of(container: Object, folders: dict[str, Path], values: dict[str, str]) -> list[Object]:
    """What `container.py` mounts for a container."""
    mounts = []
    for mount in container.get("volumeMounts") or ():
        below = mount.get("subPath") or expand(mount.get("subPathExpr", ""), values)
        source = folders[mount["name"]] / below
        if not source.exists():
            source.mkdir(parents=True)
        target = mount["mountPath"].rstrip("/")
        mounts.append({"source": str(source), "target": target, "readOnly": mount.get("readOnly", False)})
    return mounts


def _files(pod: Object, kind: str, source: Object, *, api: Api, fetch: Fetch) -> dict[str, bytes]:
    """Contents by relative path."""
    readers: dict[str, Callable[[], dict[str, bytes]]] = {
        "emptyDir": dict,
        "hostPath": dict,
        "persistentVolumeClaim": dict,
        "configMap": lambda: _chosen(source, data_of(fetch, "configmaps", source["name"], optional=_optional(source))),
        "secret": lambda: _chosen(
            source,
            data_of(fetch, "secrets", source.get("secretName") or source["name"], optional=_optional(source)),
        ),
        "downwardAPI": lambda: _downward(pod, source),
        "serviceAccountToken": lambda: {source["path"]: _token(pod, source, api)},
        "projected": lambda: _projected(pod, source, api=api, fetch=fetch),
    }
    if kind not in readers:
        raise Missing(f"the node agent knows no volume of kind {kind}")
    return readers[kind]()


def _projected(pod: Object, source: Object, *, api: Api, fetch: Fetch) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for part in source["sources"]:
        ((kind, own),) = part.items()
        files |= _files(pod, kind, own, api=api, fetch=fetch)
    return files


def _chosen(source: Object, entries: dict[str, bytes]) -> dict[str, bytes]:
    if not source.get("items"):
        return entries
    absent = [item["key"] for item in source["items"] if item["key"] not in entries]
    if absent and not _optional(source):
        raise Missing(f"no key {absent[0]!r} in {source}")
    return {item["path"]: entries[item["key"]] for item in source["items"] if item["key"] in entries}


def _optional(source: Object) -> bool:
    return bool(source.get("optional", False))


def _downward(pod: Object, source: Object) -> dict[str, bytes]:
    return {item["path"]: field_of(pod, item["fieldRef"]["fieldPath"]).encode() for item in source["items"]}


def _token(pod: Object, source: Object, api: Api) -> bytes:
    account = pod["spec"].get("serviceAccountName", "default")
    return service_account_token(api, pod["metadata"]["namespace"], account, source.get("audience")).encode()


def service_account_token(api: Api, namespace: str, account: str, audience: str | None = None) -> str:
    """A token for a service account, from the token request API."""
    spec: Object = {"expirationSeconds": 24 * 3600} | ({"audiences": [audience]} if audience else {})
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str(api.create(path, request)["status"]["token"])


def _claimed(pod: Object, claim: str, api: Api) -> Path:
    """The folder of a bound claim: its volume is of kind hostPath."""
    namespace = pod["metadata"]["namespace"]
    volume = api.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")["spec"].get("volumeName")
    if not volume:
        raise Missing(f"claim {claim!r} is not bound")
    return Path(api.get(f"/api/v1/persistentvolumes/{volume}")["spec"]["hostPath"]["path"])


def now() -> str:
    """A time in the form of the API."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

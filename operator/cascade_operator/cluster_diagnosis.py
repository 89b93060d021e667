"""The checks of `cascade doctor --cluster`: versions, rights, Redis, clocks, and whether routers follow the plans.

It is best run where the operator runs, since it checks the operator's own rights, Redis and clock.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import DocumentError
from cascade_api.names import GROUP, VERSION
from cascade_api.settings import OperatorSettings

from .cluster_source import read_as
from .clusters.kubernetes.api import (
    CASCADES,
    DEFINITIONS,
    PROFILES,
    WORKER_POOLS,
    ApiAway,
    ApiRefused,
    KubernetesApi,
    Resource,
    connect,
)
from .findings import Finding
from .store import Store, pools_of

OLDEST_KUBERNETES: Final = (1, 30)
SKEW_S: Final = 2.0
"""If clocks differ by more than this, ages and deadlines are wrong; the API server's clock is known only to the second.
"""

NEEDED: Final = (
    (GROUP, "diffusioncascades", "", ("get", "list", "watch", "patch")),
    (GROUP, "diffusioncascades", "status", ("patch",)),
    (GROUP, "cascadeprofiles", "", ("get", "list", "watch")),
    (GROUP, "workerpools", "", ("get", "list", "watch")),
    (GROUP, "workerpools", "status", ("patch",)),
    ("apps", "deployments", "", ("get", "list", "watch", "create", "patch", "delete")),
    ("", "configmaps", "", ("get", "list", "create", "patch")),
    ("networking.k8s.io", "networkpolicies", "", ("get", "list", "watch", "create", "patch", "delete")),
    ("", "pods", "", ("get", "list", "watch", "patch")),
    ("", "secrets", "", ("create",)),
    ("", "events", "", ("create",)),
)
ON_NODES: Final = ("", "nodes", "", ("get", "list", "watch"))
"""Needed on the whole cluster, even if only some namespaces are served."""


async def examine(settings: OperatorSettings) -> AsyncIterator[Finding]:
    """Make one check after the other; raises CommandFailed if no cluster is named."""
    api = KubernetesApi(connect(timeout_s=settings.api_timeout_s), timeout_s=settings.api_timeout_s)
    try:
        try:
            yield await _version(api)
            for resource in (CASCADES, PROFILES, WORKER_POOLS):
                yield await _definition(api, resource)
            for finding in await _rights(api, settings):
                yield finding
            async for finding in _redis(api, settings):
                yield finding
        except ApiAway as error:
            yield Finding("kubernetes", str(error), True, "start the API server, or name it in KUBECONFIG")
    finally:
        api.close()


async def _version(api: KubernetesApi) -> Finding:
    version = await api.version()
    text = ".".join(map(str, version))
    if version < OLDEST_KUBERNETES:
        return Finding(
            "kubernetes", text, True, "upgrade to 1.30 or newer: older versions do not check the resources' rules"
        )
    return Finding("kubernetes", text)


async def _definition(api: KubernetesApi, resource: Resource) -> Finding:
    name = f"{resource.plural}.{GROUP}"
    fix = "apply crds/*.yaml of this release, or set crds.enabled in the chart"
    try:
        found = await api.get(DEFINITIONS, "", name)
    except ApiRefused:
        # An operator for named namespaces may not read definitions, so check whether the kind is served.
        try:
            await api.list(resource, "default", metadata_only=True)
        except ApiRefused as refused:
            if refused.status == 404:
                return Finding("crd", f"{name} is not served", True, fix)
        return Finding("crd", f"{name} is served")
    if found is None:
        return Finding("crd", f"{name} is not installed", True, fix)
    served = [version["name"] for version in found["spec"]["versions"] if version.get("served")]
    if VERSION not in served:
        return Finding("crd", f"{name} serves {', '.join(served)}, not {VERSION}", True, fix)
    return Finding("crd", f"{name} serves {', '.join(served)}")


async def _rights(api: KubernetesApi, settings: OperatorSettings) -> list[Finding]:
    findings = []
    for namespace in settings.namespaces or [""]:
        missing = [
            f"{verb} {resource}{'/' + subresource if subresource else ''}"
            for group, resource, subresource, verbs in NEEDED
            for verb in verbs
            if not await api.allowed(
                verb=verb, group=group, resource=resource, namespace=namespace, subresource=subresource
            )
        ]
        where = f"namespace {namespace}" if namespace else "the cluster"
        findings.append(_rights_finding(where, missing))
    group, resource, subresource, verbs = ON_NODES
    missing = [
        f"{verb} nodes"
        for verb in verbs
        if not await api.allowed(verb=verb, group=group, resource=resource, subresource=subresource)
    ]
    counted = [c.name for c in settings.classes if c.count is not None]
    if missing and counted:
        findings.append(Finding("rights", f"nodes: cannot be read; classes with a count: {', '.join(counted)}"))
    else:
        findings.append(_rights_finding("nodes", missing))
    return findings


def _rights_finding(where: str, missing: list[str]) -> Finding:
    if missing:
        return Finding(
            "rights", f"{where}: may not {', '.join(missing)}", True, "let the chart create the role (rbac.create)"
        )
    return Finding("rights", f"{where}: all that are needed")


async def _redis(api: KubernetesApi, settings: OperatorSettings) -> AsyncIterator[Finding]:
    async with Store(settings.redis_url) as store:
        version = await store.version()
        if version is None:
            problem = store.refusal or "does not answer"
            yield Finding("redis", problem, True, "check REDIS_URL; until it answers, routers follow their last plan")
            return
        yield Finding("redis", f"answers (version {version})")
        for clock, now in (("redis", await store.time_s()), ("kubernetes", await api.time_s())):
            if now is None:
                continue
            skew_s = time.time() - now
            far = abs(skew_s) > SKEW_S
            fix = "synchronise the clocks of all machines with one source (NTP)" if far else ""
            yield Finding("clock", f"{skew_s:+.1f} s from that of {clock}", far, fix)
        for namespace in settings.namespaces or [""]:
            for raw in await api.list(CASCADES, namespace):
                yield await _plan(store, raw)


async def _plan(store: Store, raw: dict[str, Any]) -> Finding:
    """Whether a cascade has a plan, and whether its routers follow it."""
    meta = raw["metadata"]
    subject = f"{meta['namespace']}/{meta['name']}"
    try:
        cascade = read_as(raw, DiffusionCascade)
    except DocumentError as error:
        return Finding(subject, str(error), True, "correct the named field")
    seen = await store.observe(cascade.ref, pools_of(cascade))
    if seen is None or seen.plan is None:
        return Finding(
            subject, "no plan is published", True, f"see `cascade explain {meta['name']}` and the operator's log"
        )
    age_s = time.time() - seen.plan.generation / 1000
    behind = [r.router for r in seen.reports if r.plan_generation < seen.plan.generation]
    detail = f"plan of {age_s:.0f} s ago ({seen.plan.reason}); {len(seen.reports)} routers report"
    if not seen.reports:
        return Finding(subject, detail, True, "start the routers, and give them the same REDIS_URL")
    if behind and age_s > 10:
        late = ", ".join(behind)
        return Finding(subject, f"{detail}; on an older plan: {late}", True, "see the routers' log")
    return Finding(subject, detail)

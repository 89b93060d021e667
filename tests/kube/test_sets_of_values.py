"""The sets of values in tests/chart/values, on real pods: each release makes an image with `helm test`.

Without what is not here: load balancers.
`default` is installed by test_quickstart.py, and what `namespaced` says by test_side_by_side.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
import yaml

from support.helm import ROOT
from support.kube_node import HOME, KubeNode, Release
from support.kube_redis import PASSWORD, start_redis
from support.resources import ABSENT, edited
from support.triton import shapes_manifest

pytestmark = pytest.mark.kube

KEY = "a-key-of-the-studio"
NAME = "dc-diffusion-cascade"
MADE = {"made-by": "the-test"}
DEFINITIONS = {"keep": False, "rules": "always"}


@pytest.fixture
def release(kube_node: KubeNode) -> Iterator[Release]:
    if kube_node.api.find(f"/api/v1/namespaces/{HOME}") is None:
        kube_node.make_namespace(HOME)
    release = Release(kube_node)
    yield release
    release.uninstall()
    kube_node.kubectl("delete", "secret", "--selector", "made-by", "--namespace", HOME)


def values(name: str, edits: dict[str, Any]) -> dict[str, Any]:
    """The set of this name, with what it needs here."""
    text = (ROOT / "tests/chart/values" / f"{name}.yaml").read_text()
    return edited(yaml.safe_load(text), {"crds": DEFINITIONS, **edits})


def secret(node: KubeNode, namespace: str, name: str, files: dict[str, str]) -> None:
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": MADE}, "stringData": files}
    node.apply(yaml.safe_dump(document), namespace=namespace)


def pair(authority: trustme.CA, host: str) -> dict[str, str]:
    """The files of a certificate for a host."""
    issued = authority.issue_cert(host)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    authority_text = authority.cert_pem.bytes().decode()
    return {"tls.crt": chain.decode(), "tls.key": issued.private_key_pem.bytes().decode(), "ca.crt": authority_text}


def test_a_redis_of_somebody_else_and_a_router_with_tls(kube_node: KubeNode, release: Release) -> None:
    """`external-redis-tls`; routers ask for certificates and keys."""
    elsewhere, authority = kube_node.make_namespace(), trustme.CA()
    certificate = pair(authority, f"redis.{elsewhere}.svc")
    secret(kube_node, elsewhere, "redis-tls", certificate)
    secret(kube_node, HOME, "redis-ca", {"ca.crt": certificate["ca.crt"]})
    url = start_redis(kube_node, elsewhere, tls="redis-tls")
    tenant = {"name": "studio", "keys": [hashlib.sha256(KEY.encode()).hexdigest()]}
    secret(kube_node, HOME, "redis-url", {"url": url})
    secret(kube_node, HOME, "router-tls", pair(trustme.CA(), f"{NAME}-router.{HOME}.svc"))
    secret(kube_node, HOME, "tenants", {"tenants.yaml": yaml.safe_dump({"tenants": [tenant]})})
    test = {"env": [{"name": "CASCADE_API_KEY", "value": KEY}]}
    here = {"router.service.type": "ClusterIP", "test": test}
    release.install(**values("external-redis-tls", here))
    release.serve(elsewhere, shapes_manifest())
    assert "image.png" in release.helm("test", "--logs")
    kube_node.remove_namespace(elsewhere)


def test_every_part_at_once(kube_node: KubeNode, release: Release) -> None:
    """`everything`, with the image of the operator that is there and a prompt that the built-in models know."""
    media = kube_node.make_namespace("media")
    secret(kube_node, HOME, "redis-password", {"password": PASSWORD})
    secret(kube_node, HOME, "redis-tls", pair(trustme.CA(), f"{NAME}-redis.{HOME}.svc"))
    secret(kube_node, HOME, "bucket-credentials", {"id": "images", "secret": PASSWORD})
    with kube_node.volume(size="16Gi", storage_class="fast"):
        unfit = {"operator.image": ABSENT, "test.prompt": ABSENT}
        release.install(**values("everything", unfit))
        cascade, profile = yaml.safe_load_all(shapes_manifest())
        cascade["metadata"]["name"] = "portraits"  # of which the values speak
        release.serve(media, yaml.safe_dump_all([cascade, profile]), name="portraits")
        assert "image.png" in release.helm("test", "--logs")
        release.uninstall()
    kube_node.remove_namespace(media)

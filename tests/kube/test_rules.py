"""Every CEL rule of the definitions, by an API server that runs them: what it refuses, with our message, and what not.

The cases are those of tests/unit/test_crd_rules.py, which fails where a rule has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.crd import CRDS
from support.crd_cases import BAD, DOCUMENTS, GOOD, Case
from support.kube_api import ApiError
from support.kube_node import KubeNode
from support.resources import edited

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def place(kube_node: KubeNode) -> Iterator[str]:
    """The path of a namespace for all kinds, whose definitions are those of crds/; a good object of each is in it."""
    kube_node.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    kube_node.wait_defined()
    namespace = kube_node.make_namespace()
    path = f"/apis/diffusioncascade.io/v1alpha1/namespaces/{namespace}"
    for plural, good in DOCUMENTS.items():
        kube_node.api.create(f"{path}/{plural}", good())
    yield path
    kube_node.remove_namespace(namespace)
    kube_node.kubectl("delete", "-f", str(CRDS))


def written(node: KubeNode, place: str, case: Case, edits: dict[str, Any]) -> None:
    """As a dry run: an update of the good object where the rule is about changes, else a new one. Raises ApiError."""
    body = edited(DOCUMENTS[case.plural](), edits)
    path = f"{place}/{case.plural}"
    if case.update:
        path += "/" + body["metadata"]["name"]
        body["metadata"]["resourceVersion"] = node.api.get(path)["metadata"]["resourceVersion"]
        node.api.replace(path, body, dryRun="All", fieldValidation="Strict")
    else:
        body["metadata"]["name"] = "new"
        node.api.create(path, body, dryRun="All", fieldValidation="Strict")


@pytest.mark.parametrize(("case", "edits"), BAD, ids=[case.begins for case, _ in BAD])
def test_what_the_server_refuses(kube_node: KubeNode, place: str, case: Case, edits: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        written(kube_node, place, case, edits)
    assert refused.value.status == 422
    assert case.begins in str(refused.value)


@pytest.mark.parametrize(("case", "edits"), GOOD, ids=[case.begins for case, _ in GOOD])
def test_what_the_server_takes(kube_node: KubeNode, place: str, case: Case, edits: dict[str, Any]) -> None:
    written(kube_node, place, case, edits)

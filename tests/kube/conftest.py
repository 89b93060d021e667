"""The release that the last modules of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.kube_node import CRDS, PRICED, KubeNode, Release


@pytest.fixture(scope="session")
def release(kube_node: KubeNode) -> Iterator[Release]:
    """As by default but for PRICED. It stays to the end, so the modules that come last use it."""
    release = Release(kube_node)
    with kube_node.volume():
        try:
            release.install(**PRICED)
            yield release
        finally:
            release.uninstall()
    assert not kube_node.kubectl("get", "crd", *CRDS, "--ignore-not-found", "--output", "name")
